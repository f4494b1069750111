"""Command lines of SageMaker jobs, the requests that they lead to, and what a job logs and leaves."""

import io
import re
import tarfile
from pathlib import Path
from typing import Any

from launch.sagemaker.archive import Code
from launch.sagemaker.job import build_request, parse_job
from launch.sagemaker.limits import check_request
from tests.conftest import REPOSITORY

CONFIG = str(REPOSITORY / "configs/eda_tcn.json")
ROLE = "arn:aws:iam::123456789012:role/feltsound"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/train:1"
ASKED = {
    "--role": ROLE,
    "--bucket": "lab",
    "--instance_type": "ml.g5.xlarge",
    "--image_uri": IMAGE,
    "--region": "us-east-1",
    "--job_name": "a-job",
}
# As Trainer printed them in a run of configs/eda_tcn.json for two steps.
TRAIN_LINE = "{'loss': '3.387', 'grad_norm': '33.06', 'learning_rate': '3e-05', 'epoch': '0.2'}"
EVAL_LINE = (
    "{'eval_loss': '1.065', 'eval_rmse': '1.025', 'eval_pearson': '-0.2778', 'eval_runtime': '0.4528', 'epoch': '1'}"
)


def words(*more: str, config: str = CONFIG, **other: str) -> list[str]:
    """Return a command line: the words of ASKED, some with other values, and more words at the end."""
    asked = ASKED | {f"--{name}": value for name, value in other.items()}
    return [config, *(word for pair in asked.items() for word in pair), *more]


def request_of(*more: str, **other: str) -> dict[str, Any]:
    """Return the request that a command line leads to, checked against the limits."""
    job = parse_job(words(*more, **other))
    code = Code(b"code", frozenset())
    request = build_request(job, code)
    check_request(request)
    return request


def metrics(request: dict[str, Any]) -> list[dict[str, str]]:
    """Return the metric definitions of a request."""
    return request["AlgorithmSpecification"]["MetricDefinitions"]


def read_metrics(definitions: list[dict[str, str]], lines: list[str]) -> dict[str, list[str]]:
    """Return the numbers that SageMaker would read from log lines, by metric."""
    found: dict[str, list[str]] = {}
    for definition in definitions:
        for line in lines:
            for value in re.findall(definition["Regex"], line):
                assert float(value) == float(value)
                found.setdefault(definition["Name"], []).append(value)
    return found


def archive_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Write a tar.gz file."""
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """Return an entry of an archive, with its permission bits set too wide."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, target, 0o4777
    return entry
