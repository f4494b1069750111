"""Command lines of SageMaker jobs, their requests, and the logs and archives of jobs."""

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
OPTIONS = {
    "--role": ROLE,
    "--bucket": "lab",
    "--instance_type": "ml.g5.xlarge",
    "--image_uri": IMAGE,
    "--region": "us-east-1",
    "--job_name": "a-job",
}
# Printed by the Trainer in a run of configs/eda_tcn.json for two steps.
TRAIN_LINE = "{'loss': '3.387', 'grad_norm': '33.06', 'learning_rate': '3e-05', 'epoch': '0.2'}"
EVAL_LINE = (
    "{'eval_loss': '1.065', 'eval_rmse': '1.025', 'eval_pearson': '-0.2778', 'eval_runtime': '0.4528', 'epoch': '1'}"
)


def words(*more: str, config: str = CONFIG, **other: str) -> list[str]:
    """Return a command line: OPTIONS, some of them with other values, and more arguments at the end."""
    options = OPTIONS | {f"--{name}": value for name, value in other.items()}
    return [config, *(argument for option in options.items() for argument in option), *more]


def request_of(*more: str, **other: str) -> dict[str, Any]:
    """Return the request of a command line, checked against the limits."""
    job = parse_job(words(*more, **other))
    code = Code(b"code", frozenset())
    request = build_request(job, code)
    check_request(request)
    return request


def metrics(request: dict[str, Any]) -> list[dict[str, str]]:
    return request["AlgorithmSpecification"]["MetricDefinitions"]


def read_metrics(definitions: list[dict[str, str]], lines: list[str]) -> dict[str, list[str]]:
    """Return the numbers that SageMaker would read from log lines, by metric."""
    values: dict[str, list[str]] = {}
    for definition in definitions:
        for line in lines:
            for value in re.findall(definition["Regex"], line):
                assert float(value) == float(value)  # a number and not NaN
                values.setdefault(definition["Name"], []).append(value)
    return values


def archive_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """Return an entry of an archive with unsafe permission bits."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, target, 0o4777
    return entry
