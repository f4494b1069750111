"""SageMaker jobs: refused here when SageMaker would, sent as asked, and trained by a container of our own."""

import ast
import base64
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import run_sagemaker
from launch.run import load_task
from launch.sagemaker import entry as sagemaker_entry
from launch.sagemaker import follow as sagemaker_follow
from launch.sagemaker import job as sagemaker_job
from launch.sagemaker.archive import ENTRY, Code, pack_code, unpack_model
from launch.sagemaker.follow import connect, fetch_model, follow
from launch.sagemaker.job import (
    Job,
    build_request,
    check_reaches_container,
    make_parser,
    metric_definitions,
    parse_job,
)
from launch.sagemaker.limits import check_request, request_problems
from tasks import TASKS
from tests.conftest import REPOSITORY
from tests.helpers.s3_server import FakeS3, Rule, Status, serve_s3
from tests.helpers.sagemaker_host import start
from training.command_line import type_hints
from training.settings import RunArguments, RunTrainingArguments

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
    """A command line: what is asked for by default, with other values, and more words at its end."""
    asked = ASKED | {f"--{name}": value for name, value in other.items()}
    return [config, *(word for pair in asked.items() for word in pair), *more]


def request_of(*more: str, **other: str) -> dict[str, Any]:
    """The request that a command line leads to, checked."""
    job = parse_job(words(*more, **other))
    code = Code(b"code", frozenset())
    request = build_request(job, code)
    check_request(request)
    return request


@pytest.fixture(scope="module")
def code() -> Code:
    """This repository, packed."""
    return pack_code(REPOSITORY)


# What is refused


@pytest.mark.parametrize(
    "more, told",
    [
        (["--job_name", "under_score"], "--job_name (TrainingJobName) 'under_score' is not of the form"),
        (["--job_name", "last-"], "--job_name (TrainingJobName) 'last-' is not of the form"),
        (["--job_name", "a" * 64], "--job_name (TrainingJobName): 64 characters; SageMaker takes at most 63"),
        (["--role", "arn:aws:iam::12:role/feltsound"], "--role (RoleArn) 'arn:aws:iam::12:role/feltsound' is not of"),
        (["--role", "feltsound"], "--role (RoleArn): 9 characters; SageMaker takes at least 20"),
        (["--bucket", "Lab"], "--bucket 'Lab' is no bucket name"),
        (["--bucket", "s3://lab"], "--bucket 's3://lab' is no bucket name"),
        (["--bucket", "192.168.0.1"], "--bucket '192.168.0.1' is no bucket name"),
        (["--bucket", "ab"], "--bucket 'ab' is no bucket name"),
        (["--instance_type", "ml.g5.large"], "did you mean 'ml.g5.xlarge'?"),
        (["--instance_type", "g5.xlarge"], "did you mean 'ml.g5.xlarge'?"),
        (["--image_uri", "i" * 256], "--image_uri (AlgorithmSpecification.TrainingImage): 256 characters"),
        (["--channel", "training"], "--channel 'training': expected training=s3://bucket/prefix"),
        (["--channel", "training=/data/pmemo"], "'/data/pmemo' is no address of an object"),
        (["--channel", "my data=s3://lab/x"], "--channel (InputDataConfig[0].ChannelName) 'my data' is not of"),
        (["--channel", f"{'c' * 65}=s3://lab/x"], "ChannelName): 65 characters; SageMaker takes at most 64"),
        (["--channel", "a=s3://lab/x", "--channel", "a=s3://lab/y"], "--channel a is given twice"),
        ([w for i in range(21) for w in ("--channel", f"c{i}=s3://lab/x")], "(InputDataConfig): 21 entries;"),
        (["--channel", "training=s3://lab/x", "--dataset", "s3://lab/y"], "two ways to name the data"),
        (["--spot", "--max_run", "100", "--max_wait", "99"], "--max_wait 99 is shorter than --max_run 100"),
        (["--max_wait", "99"], "--max_wait 99 is about spot jobs; add --spot"),
        (["--spot", "--save_strategy", "no", "--load_best_model_at_end", "false"], "save_strategy no: a spot job"),
        (["--max_run", "0"], "--max_run (StoppingCondition.MaxRuntimeInSeconds): 0; SageMaker takes at least 1"),
        (["--max_run", str(29 * 86400)], "SageMaker stops a job after 2419200 s"),
        (["--retry_attempts", "31"], "(RetryStrategy.MaximumRetryAttempts): 31; SageMaker takes at most 30"),
        (["--subnets", "subnet-1"], "--security_group_ids (VpcConfig.SecurityGroupIds): 0 entries;"),
        (["--security_group_ids", "sg-1"], "--subnets (VpcConfig.Subnets): 0 entries; SageMaker takes at least 1"),
        (["--subnets", "a b", "--security_group_ids", "sg-1"], "--subnets (VpcConfig.Subnets[0]) 'a b' is not of"),
        (["--output_kms_key", "a key"], "--output_kms_key (OutputDataConfig.KmsKeyId) 'a key' is not of"),
        (["--volume_kms_key", "a key"], "--volume_kms_key (ResourceConfig.VolumeKmsKeyId) 'a key' is not of"),
        (["--checkpoints", "/here"], "--checkpoints (CheckpointConfig.S3Uri) '/here' is not of"),
        (["--tag", "project"], "--tag 'project': expected project=feltsound"),
        (["--tag", "a;b=c"], "--tag (Tags[0].Key) 'a;b' is not of"),
        (["--environment", "1A=b"], "--environment (Environment (a name)) '1A' is not of"),
        (["--environment", f"A={'b' * 513}"], "(Environment[A]): 513 characters; SageMaker takes at most 512"),
        (["--environment", "HF_TOKEN=x"], "--environment HF_TOKEN is a secret by its name"),
        (["--environment", "AWS_SECRET_ACCESS_KEY=x"], "--environment AWS_SECRET_ACCESS_KEY is a secret by its name"),
        (["--environment", "WANDB_API_KEY=x"], "--environment WANDB_API_KEY is a secret by its name"),
        (["--environment", "NOTE=AKIAIOSFODNN7EXAMPLE"], "--environment NOTE: the value looks like a secret"),
        (["--environment", "PROXY=http://me:pass@proxy"], "--environment PROXY: the value looks like a secret"),
        (["--hub_token", "x"], "--hub_token is a secret"),
        (["--run_name", "hf_" + "a" * 30], "setting run_name: the value looks like a secret"),
        (["--run_name", "n" * 2499], "settings of the run (HyperParameters[run_name]): 2501 characters;"),
        (["--output_dir", "x"], "--output_dir is not for you to set"),
        (["--resume_from_checkpoint", "true"], "--resume_from_checkpoint is not for you to set"),
        (["--push_to_hub"], "--push_to_hub is not for you to set"),
        (["--learning_ratte", "1e-3"], "unknown key 'learning_ratte'; did you mean 'learning_rate'?"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--max_rum", "9"], "unknown option --max_rum; did you mean --max_run?"),
        (["stray"], "unexpected 'stray'"),
    ],
)  # fmt: skip
def test_what_sagemaker_would_refuse_is_refused_here_in_one_line(more: list[str], told: str) -> None:
    with pytest.raises((ValueError, SystemExit)) as refusal:
        request_of(*more)
    message = str(refusal.value)
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda r: r["HyperParameters"].update({f"k{i}": "1" for i in range(96)}), "101 entries; SageMaker"),
        (lambda r: r["HyperParameters"].update(k="v" * 2501), "[k]): 2501 characters; SageMaker takes at most 2500"),
        (lambda r: metrics(r).extend(metrics(r)[:1] * 40), "entries; SageMaker takes at most 40"),
        (lambda r: metrics(r)[0].update(Regex="x" * 501), "Regex: 501 characters; SageMaker takes at most 500"),
        (lambda r: r["InputDataConfig"].append(r["InputDataConfig"][0]), "--channel training is given twice"),
        (lambda r: r.pop("CheckpointConfig"), "a spot job without checkpoints begins anew"),
        (lambda r: r["StoppingCondition"].pop("MaxWaitTimeInSeconds"), "--max_wait None is shorter than --max_run"),
    ],
)  # fmt: skip
def test_limits_between_and_within_members_hold_for_any_request(change: Callable[[dict], Any], told: str) -> None:
    request = request_of("--spot", "--channel", "training=s3://lab/x")
    assert not list(request_problems(request))
    change(request)
    assert any(told in problem for problem in request_problems(request))


def metrics(request: dict[str, Any]) -> list[dict[str, str]]:
    """The metric definitions of a request."""
    return request["AlgorithmSpecification"]["MetricDefinitions"]


def test_a_hundred_hyperparameters_are_taken() -> None:
    request = request_of()
    request["HyperParameters"].update({f"k{i}": "1" for i in range(95)})
    assert len(request["HyperParameters"]) == 100
    assert not list(request_problems(request))


@pytest.mark.parametrize("instance_type", ["ml.g5.xlarge", "ml.m5.large", "ml.p4d.24xlarge"])
def test_instance_types_of_aws_are_taken(instance_type: str) -> None:
    request = request_of()
    request["ResourceConfig"]["InstanceType"] = instance_type
    assert not list(request_problems(request))


@pytest.mark.parametrize("missing", ["--role", "--bucket", "--instance_type", "--image_uri"])
def test_what_nobody_can_guess_must_be_given(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = words()
    place = line.index(missing)
    with pytest.raises(SystemExit):
        parse_job(line[:place] + line[place + 2 :])
    assert f"the following arguments are required: {missing}" in capsys.readouterr().err


def test_a_missing_region_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    line = words()
    place = line.index("--region")
    with pytest.raises(ValueError, match="no region: give --region"):
        parse_job(line[:place] + line[place + 2 :])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert parse_job(line[:place] + line[place + 2 :]).region == "eu-west-1"


def test_a_config_from_elsewhere_or_with_a_secret_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "mine.json"
    config.write_text('{"run_name": "AKIAIOSFODNN7EXAMPLE"}')
    with pytest.raises(ValueError, match="is not in .*, which is what a job gets; copy it into configs/"):
        parse_job(words(config=str(config)))
    monkeypatch.setattr(sagemaker_job, "REPOSITORY", tmp_path)
    with pytest.raises(ValueError, match="run_name: the value looks like a secret") as refusal:
        parse_job(words(config=str(config)))
    assert "AKIA" not in str(refusal.value)
    with pytest.raises(SystemExit, match="no such config file"):
        parse_job(words(config=str(tmp_path / "none.json")))


def test_files_of_this_machine_are_refused_and_those_of_the_repository_taken(tmp_path: Path, code: Code) -> None:
    model = tmp_path / "model"
    model.mkdir()
    job = parse_job(words("--model_name_or_path", str(model)))
    with pytest.raises(
        ValueError, match="model_name_or_path = .* is no part of the code, and a job would not find it"
    ):
        check_reaches_container(job, code)
    with pytest.raises(ValueError, match="dataset = 'hf_datasets/pmemoo' is no part of the code"):
        check_reaches_container(parse_job(words("--dataset", "hf_datasets/pmemoo")), code)
    check_reaches_container(parse_job(words("--dataset", "someone/on-the-hub")), code)
    check_reaches_container(parse_job(words(config=str(REPOSITORY / "configs/meld_sample.json"))), code)
    check_reaches_container(parse_job(words("--model_name_or_path", "/opt/ml/input/data/model")), code)


def test_prepared_data_that_stays_here_does_not_silently_become_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hf_datasets/pmemo").mkdir(parents=True)
    (tmp_path / "hf_datasets/pmemo/.huggingface.yaml").touch()
    (tmp_path / "hf_datasets/pmemo/README.md").touch()
    (tmp_path / "configs").mkdir()
    shutil.copy(CONFIG, tmp_path / "configs")
    monkeypatch.setattr(sagemaker_job, "REPOSITORY", tmp_path)
    code = Code(b"", frozenset({"hf_datasets/pmemo/README.md"}))
    config = str(tmp_path / "configs/eda_tcn.json")
    with pytest.raises(ValueError, match="holds prepared data, which does not travel with the code"):
        check_reaches_container(parse_job(words(config=config)), code)
    check_reaches_container(parse_job(words("--dataset_config", "sample", config=config)), code)
    check_reaches_container(parse_job(words("--channel", "training=s3://lab/pmemo", config=config)), code)


def test_no_option_of_a_job_is_called_like_a_key_of_a_run() -> None:
    options = {action.dest for action in make_parser()._actions} - {"help"}
    for task in TASKS:
        assert not options & type_hints((RunArguments, *load_task(task).ARGUMENTS, RunTrainingArguments)).keys()


# What is sent


def test_a_request_says_all_that_was_asked(capsys: pytest.CaptureFixture[str], code: Code) -> None:
    run_sagemaker.main(
        words(
            "--spot", "--max_run", "3600", "--max_wait", "7200", "--channel", "training=s3://lab/prepared/pmemo",
            "--channel", "model=s3://lab/model/", "--input_mode", "FastFile", "--instance_count", "2",
            "--environment", "TOKENIZERS_PARALLELISM=false", "--subnets", "subnet-1", "subnet-2",
            "--security_group_ids", "sg-1", "--output_kms_key", "alias/out", "--volume_kms_key", "alias/disk",
            "--encrypt_traffic", "--tag", "project=felt sound", "--volume_size", "80", "--retry_attempts", "2",
            "--dry_run", "--bf16", "true", "--tf32", "true", "--learning_rate", "3e-4",
            "--model_config.num_channels=32", "--label_names", "a", "b", "--torch_compile",
        )
    )  # fmt: skip
    out, err = capsys.readouterr()
    request = json.loads(out)
    assert "data: s3://lab/prepared/pmemo" in err
    definitions = metrics(request)
    assert {"Name": "eval_pearson", "Regex": "'eval_pearson': '?([-+0-9.eE]+)'?"} in definitions

    def channel(name: str, url: str) -> dict[str, Any]:
        source = {"S3DataType": "S3Prefix", "S3Uri": url, "S3DataDistributionType": "FullyReplicated"}
        return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": "FastFile"}

    assert request == {
        "TrainingJobName": "a-job",
        "RoleArn": ROLE,
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "FastFile",
            "MetricDefinitions": definitions,
        },
        "HyperParameters": {
            "sagemaker_program": '"launch/sagemaker/entry.py"',
            "sagemaker_submit_directory": f'"s3://lab/feltsound/code/{code.sha256}/source.tar.gz"',
            "sagemaker_region": '"us-east-1"',
            "sagemaker_container_log_level": "20",
            "config": '"configs/eda_tcn.json"',
            "bf16": '"true"',
            "tf32": '"true"',
            "learning_rate": '"3e-4"',
            "model_config.num_channels": '"32"',
            "label_names": '["a", "b"]',
            "torch_compile": '"true"',
        },
        "InputDataConfig": [channel("training", "s3://lab/prepared/pmemo/"), channel("model", "s3://lab/model/")],
        "OutputDataConfig": {"S3OutputPath": "s3://lab/feltsound/jobs", "KmsKeyId": "alias/out"},
        "ResourceConfig": {
            "InstanceType": "ml.g5.xlarge",
            "InstanceCount": 2,
            "VolumeSizeInGB": 80,
            "VolumeKmsKeyId": "alias/disk",
        },
        "VpcConfig": {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200},
        "EnableManagedSpotTraining": True,
        "EnableInterContainerTrafficEncryption": True,
        "CheckpointConfig": {"S3Uri": "s3://lab/feltsound/jobs/a-job/checkpoints", "LocalPath": "/opt/ml/checkpoints"},
        "RetryStrategy": {"MaximumRetryAttempts": 2},
        "Environment": {"TOKENIZERS_PARALLELISM": "false"},
        "Tags": [{"Key": "project", "Value": "felt sound"}],
    }


def test_what_was_not_asked_for_is_not_sent() -> None:
    request = request_of()
    assert not request.keys() & {"InputDataConfig", "VpcConfig", "CheckpointConfig", "RetryStrategy"}
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 86400}
    assert request["EnableManagedSpotTraining"] is False
    assert request_of("--spot")["StoppingCondition"]["MaxWaitTimeInSeconds"] == 2 * 86400
    assert request_of("--checkpoints", "s3://lab/c")["CheckpointConfig"]["S3Uri"] == "s3://lab/c"


def test_a_job_without_a_name_gets_that_of_its_config_and_the_time() -> None:
    line = words()
    place = line.index("--job_name")
    name = parse_job(line[:place] + line[place + 2 :]).name
    assert re.fullmatch(r"eda-tcn-\d{8}-\d{6}", name)


@pytest.mark.parametrize("task", TASKS)
def test_metric_definitions_fit_the_limit_and_find_the_scores_of_every_task(task: str) -> None:
    definitions = metric_definitions(load_task(task))
    assert len(definitions) <= 40
    found = read_metrics(definitions, [TRAIN_LINE])
    assert found == {"loss": ["3.387"], "grad_norm": ["33.06"], "learning_rate": ["3e-05"], "epoch": ["0.2"]}
    for metric in load_task(task).VALIDATION_METRICS:
        line = {f"eval_{metric}": "0.5", "epoch": "1"}
        assert read_metrics(definitions, [str(line)]) == {f"eval_{metric}": ["0.5"], "epoch": ["1"]}
    assert read_metrics(definitions, ["{'loss': 'nan'}"]) == {}


def test_scores_are_told_from_those_whose_names_end_alike() -> None:
    found = read_metrics(metric_definitions(load_task("eda")), [EVAL_LINE])
    assert found == {
        "eval_loss": ["1.065"],
        "eval_rmse": ["1.025"],
        "eval_pearson": ["-0.2778"],
        "eval_runtime": ["0.4528"],
        "epoch": ["1"],
    }


def read_metrics(definitions: list[dict[str, str]], lines: list[str]) -> dict[str, list[str]]:
    """What SageMaker would read from log lines; each value is a number."""
    found: dict[str, list[str]] = {}
    for definition in definitions:
        for line in lines:
            for value in re.findall(definition["Regex"], line):
                assert float(value) == float(value)
                found.setdefault(definition["Name"], []).append(value)
    return found


# The code


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository."""
    root = tmp_path / "tree"
    for path in ("training/b.py", "training/a.py", "configs/x.json", "hf_datasets/pmemo/sample/train.parquet"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=2", "av"]\n')
    return root


def test_the_same_files_give_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    first = pack_code(tree)
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    os.utime(copy / "training/a.py", (1, 1))
    (copy / "training/b.py").chmod(0o700)
    for made in (
        "training/__pycache__/a.pyc", "outputs/x/model.safetensors", "hf_datasets/pmemo/data/train.parquet",
        "hf_datasets/pmemo/.huggingface.yaml", "hf_datasets/pmemo/defects.csv", ".git/config", ".env",
        "env/pyvenv.cfg", "my_venv/pyvenv.cfg", "my_venv/lib.py", "feltsound.egg-info/PKG-INFO", "tests/test_a.py",
    ):  # fmt: skip
        (copy / made).parent.mkdir(parents=True, exist_ok=True)
        (copy / made).write_text("made")
    assert pack_code(copy).content == first.content
    assert pack_code(copy).sha256 == first.sha256
    (copy / "training/a.py").write_text("changed")
    assert pack_code(copy).sha256 != first.sha256


def test_an_archive_holds_no_times_owners_or_modes_and_the_requirements(tree: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(pack_code(tree).content)) as archive:
        members = archive.getmembers()
        assert archive.extractfile("requirements.txt").read() == b"torch>=2\nav\n"
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert "hf_datasets/pmemo/sample/train.parquet" in {m.name for m in members}


def test_code_that_holds_data_is_refused_by_name(tree: Path) -> None:
    with open(tree / "configs/big.wav", "wb") as file:
        file.truncate((100 << 20) + 1)
    with pytest.raises(ValueError, match=r"the largest file is configs/big.wav \(100 MiB\)"):
        pack_code(tree)


def test_this_repository_travels_with_its_samples_and_without_its_tests(code: Code) -> None:
    assert {ENTRY, "run_train.py", "configs/eda_tcn.json", "requirements.txt"} <= code.files
    assert any(path.startswith("hf_datasets/meld/sample/") for path in code.files)
    assert not [path for path in code.files if path.startswith(("tests/", "benchmarks/", "outputs/", "."))]
    assert len(code.content) < 40 << 20


def test_the_entry_script_needs_nothing_installed_and_nothing_beside_it_hides_what_it_needs() -> None:
    tree = ast.parse((REPOSITORY / ENTRY).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    # As a script it finds its neighbours before the standard library.
    assert not {path.stem for path in (REPOSITORY / ENTRY).parent.iterdir()} & sys.stdlib_module_names


# The model


def archive_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """A tar.gz with these members."""
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """An entry of an archive."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, target, 0o4777
    return entry


@pytest.mark.parametrize(
    "evil, told",
    [
        (member("../outside"), "leads out of the folder"),
        (member("a/../../outside"), "leads out of the folder"),
        (member("/tmp/outside"), "leads out of the folder"),
        (member("..\\outside"), "leads out of the folder"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "is a link or a device"),
        (member("link", tarfile.LNKTYPE, "../outside"), "is a link or a device"),
        (member("pipe", tarfile.FIFOTYPE), "is a link or a device"),
        (member("disk", tarfile.BLKTYPE), "is a link or a device"),
    ],
)
def test_an_archive_that_leads_elsewhere_leaves_nothing(evil: tarfile.TarInfo, told: str, tmp_path: Path) -> None:
    content = b"x" if evil.type == tarfile.REGTYPE else b""
    archive = archive_of(tmp_path / "model.tar.gz", (member("config.json"), b"{}"), (evil, content))
    with pytest.raises(ValueError, match=f"{told}|leads out"):
        unpack_model(archive, tmp_path / "models/a")
    assert list((tmp_path / "models").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_a_model_is_unpacked_whole_or_not_at_all(tmp_path: Path) -> None:
    archive = archive_of(
        tmp_path / "model.tar.gz", (member("./config.json"), b"{}"), (member("runs/a/events"), os.urandom(5000))
    )
    unpack_model(archive, tmp_path / "model")
    assert (tmp_path / "model/config.json").read_text() == "{}"
    assert not (tmp_path / "model/config.json").stat().st_mode & 0o7000
    with pytest.raises(ValueError, match="is there already; name another folder by --download_to"):
        unpack_model(archive, tmp_path / "model")
    (tmp_path / "cut.tar.gz").write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cut.tar.gz is damaged"):
        unpack_model(tmp_path / "cut.tar.gz", tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


# The container


def container(tmp_path: Path, **other: str) -> dict[str, str]:
    """The toolkit's variables."""
    return {
        "SAGEMAKER_BASE_DIR": str(tmp_path),
        "SM_MODEL_DIR": str(tmp_path / "model"),
        "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_NUM_GPUS": "0",
        "SM_HPS": json.dumps({"config": "configs/x.json", "learning_rate": "3e-4", "label_names": ["a", "b"]}),
        **other,
    }


def test_the_entry_starts_one_process_a_gpu_on_every_machine(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/x"
    command = sagemaker_entry.train_command(container(tmp_path), folder)
    assert "--cpu" in command
    assert command[command.index("--num_processes") + 1] == "1"
    assert command[command.index("run_train.py") :] == [
        "run_train.py", "configs/x.json", "--learning_rate", "3e-4", "--label_names", "a", "b",
        "--output_dir", str(folder), "--disable_tqdm", "true",
    ]  # fmt: skip
    one = sagemaker_entry.train_command(container(tmp_path, SM_NUM_GPUS="1"), folder)
    assert "--multi_gpu" not in one
    assert "--cpu" not in one
    hosts = {"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2", "SM_NUM_GPUS": "4"}
    both = " ".join(sagemaker_entry.train_command(container(tmp_path, **hosts), folder))
    assert "--num_processes 8 --num_machines 2" in both
    assert "--multi_gpu" in both
    assert "--machine_rank 1 --main_process_ip algo-1 --main_process_port 29500" in both
    assert not sagemaker_entry.is_first(container(tmp_path, **hosts))


def test_the_entry_goes_on_where_there_are_checkpoints_and_takes_the_data_channel(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/x"
    (folder / "checkpoint-1").mkdir(parents=True)
    command = sagemaker_entry.train_command(container(tmp_path, SM_CHANNEL_TRAINING="/data"), folder)
    assert command[-2:] == ["--resume_from_checkpoint", "true"]
    assert command[command.index("--dataset") + 1] == "/data"


def test_a_run_that_an_earlier_attempt_finished_is_delivered_without_its_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/x"
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    assert sagemaker_entry.main(container(tmp_path)) == 0
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    "said, reason",
    [
        (["Traceback", "  File", "KeyError: 3", "run_train.py: no such folder", ""], "run_train.py: no such folder"),
        (["configs/x.json: unknown key 'a'", "subprocess.CalledProcessError: ..."], "configs/x.json: unknown key 'a'"),
        (["Traceback", "torch.OutOfMemoryError: no memory", "  more"], "torch.OutOfMemoryError: no memory"),
        (["Killed"], "Killed"),
        ([], "no message"),
    ],
)  # fmt: skip
def test_a_failure_is_the_line_that_says_why(said: list[str], reason: str) -> None:
    assert sagemaker_entry.reason(said) == reason


# Against moto, over HTTP


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """AWS on this machine with a bucket; moto records requests in the folder that the process is in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sagemaker_follow, "PAUSE", 0.01)
    with serve_s3() as s3:
        s3.boto.create_bucket(Bucket="lab")
        yield s3


def recorder(s3: FakeS3, action: str) -> bytes:
    """Ask moto's recorder for something."""
    verb = "GET" if action == "download-recording" else "POST"
    url = f"{s3.boto.meta.endpoint_url}/moto-api/recorder/{action}"
    with urllib.request.urlopen(urllib.request.Request(url, method=verb)) as answer:
        return answer.read()


def sent_to_sagemaker(s3: FakeS3, action: str) -> list[dict[str, Any]]:
    """The bodies of all requests of one kind since recording began."""
    entries = [json.loads(line) for line in recorder(s3, "download-recording").splitlines()]
    wanted = [e for e in entries if e["headers"].get("X-Amz-Target", "").endswith(f".{action}")]
    return [json.loads(base64.b64decode(e["body"]) if e["body_encoded"] else e["body"]) for e in wanted]


def test_the_request_arrives_as_it_was_printed_and_the_code_once(
    aws: FakeS3, code: Code, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.put("s3://lab/prepared/pmemo/README.md", b"card")
    more = ["--channel", "training=s3://lab/prepared/pmemo", "--environment", "A=b", "--spot", "--tag", "who=us"]
    run_sagemaker.main(words("--dry_run", *more))
    printed = json.loads(capsys.readouterr().out)
    assert not aws.proxy.count()
    recorder(aws, "reset-recording")
    recorder(aws, "start-recording")
    run_sagemaker.main(words(*more))
    recorder(aws, "stop-recording")
    assert sent_to_sagemaker(aws, "CreateTrainingJob") == [printed]
    assert "started: arn:aws:sagemaker:us-east-1:" in capsys.readouterr().out
    uploads = r"^PUT /lab/feltsound/code/"
    assert aws.proxy.count(uploads) == 1
    run_sagemaker.main(words(*more, job_name="another"))
    assert aws.proxy.count(uploads) == 1
    key = f"feltsound/code/{code.sha256}/source.tar.gz"
    assert aws.boto.get_object(Bucket="lab", Key=key)["Body"].read() == code.content


@pytest.mark.parametrize(
    "more, told",
    [
        (["--bucket", "nobody-has-this"], "--bucket nobody-has-this: there is no such bucket; create it in us-east-1"),
        (["--channel", "training=s3://lab/none"], "--channel training: nothing lies below s3://lab/none/"),
        # `data2` begins like `data`, but lies beside it.
        (["--channel", "training=s3://lab/data"], "--channel training: nothing lies below s3://lab/data/"),
        (["--region", "eu-west-1"], "--bucket lab is in us-east-1, the job in eu-west-1"),
    ],
)
def test_nothing_is_uploaded_for_a_job_that_would_fail(more: list[str], told: str, aws: FakeS3) -> None:
    aws.put("s3://lab/data2/x", b"x")
    with pytest.raises(ValueError, match=re.escape(told)):
        run_sagemaker.main(words(*more))
    assert not aws.proxy.count("^PUT ")
    assert not aws.proxy.count("^POST ")


def test_a_refusal_of_aws_is_one_line(aws: FakeS3) -> None:
    aws.proxy.rules.append(Rule("^HEAD /lab/feltsound/", Status(403)))
    with pytest.raises(ValueError, match="AWS refused: .*403.*HeadObject"):
        run_sagemaker.main(words())


def test_waiting_prints_status_and_logs_and_brings_the_model(
    aws: FakeS3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = connect("us-east-1").logs
    logs.create_log_group(logGroupName=sagemaker_follow.LOG_GROUP)
    now = int(time.time() * 1000)
    for stream, lines in {
        "a-job/algo-1-1": ["first", TRAIN_LINE],
        "a-job/algo-2-1": ["second"],
        "a-job-2/algo-1-1": ["of another job"],
    }.items():
        logs.create_log_stream(logGroupName=sagemaker_follow.LOG_GROUP, logStreamName=stream)
        events = [{"timestamp": now + i, "message": line} for i, line in enumerate(lines)]
        logs.put_log_events(logGroupName=sagemaker_follow.LOG_GROUP, logStreamName=stream, logEvents=events)
    archive = archive_of(tmp_path / "model.tar.gz", (member("metrics.json"), b"{}"))
    aws.put("s3://lab/feltsound/jobs/a-job/output/model.tar.gz", archive.read_bytes())
    run_sagemaker.main(words("--wait"))
    out = capsys.readouterr().out
    assert "a-job Completed: " in out
    assert out.index("first\n") < out.index(TRAIN_LINE) < out.index("second\n")
    assert out.count("first") == 1
    assert "of another job" not in out
    assert "model and scores: outputs/a-job" in out
    assert (tmp_path / "outputs/a-job/metrics.json").read_text() == "{}"


def test_a_job_is_followed_from_status_to_status(aws: FakeS3, capsys: pytest.CaptureFixture[str]) -> None:
    """moto's jobs are over at once, so this one's descriptions are made up."""
    clients = connect("us-east-1")
    steps = iter(["InProgress: Starting", "InProgress: Starting", "InProgress: Training", "Failed: Failed"])

    class Told:
        @staticmethod
        def describe_training_job(TrainingJobName: str) -> dict[str, str]:
            status, _, secondary = next(steps).partition(": ")
            return {
                "TrainingJobStatus": status,
                "SecondaryStatus": secondary,
                "FailureReason": "exit status 1: no GPU",
            }

    found = follow(dataclasses.replace(clients, sagemaker=Told()), "a-job")
    assert capsys.readouterr().out.splitlines() == [
        "a-job InProgress: Starting",
        "a-job InProgress: Training",
        "a-job Failed: Failed",
    ]
    with pytest.raises(ValueError, match="a-job failed: exit status 1: no GPU"):
        fetch_model(clients, parse_job(words()), found)


def test_the_policies_and_the_cell_of_the_readme_are_what_they_say_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    section = (
        (REPOSITORY / "README.md").read_text(encoding="utf-8").split("## Train on SageMaker\n")[1].split("\n## ")[0]
    )
    policy, cors = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", section, re.DOTALL))
    assert policy["Version"] == "2012-10-17"
    assert cors[0]["AllowedMethods"] == ["PUT", "POST"]
    (cell,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    sent: list[list[str]] = []
    monkeypatch.setattr(run_sagemaker, "main", sent.append)
    exec(cell)
    check_request(build_request(parse_job([*sent[0], "--region", "us-east-1"]), Code(b"", frozenset())))
    (command,) = re.findall(r"python (run_sagemaker.py .*?)\n```", section, re.DOTALL)
    parse_job([*command.replace("\\\n", " ").split()[1:], "--region", "us-east-1"])


# A container of our own, which trains


@pytest.mark.slow
def test_a_job_trains_and_after_an_interruption_goes_on_to_the_same_model(
    tmp_path: Path, aws: FakeS3, code: Code
) -> None:
    sample = REPOSITORY / "hf_datasets/pmemo"
    for path in [sample / "README.md", *sorted((sample / "sample").rglob("*.parquet"))]:
        aws.put(f"s3://lab/pmemo/{path.relative_to(sample).as_posix()}", path.read_bytes())
    job = parse_job(
        words(
            "--spot", "--channel", "training=s3://lab/pmemo", "--dataset_config", "sample", "--max_steps", "2",
            "--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps",
            "--save_steps", "1", "--environment", "OMP_NUM_THREADS=1",
        )
    )  # fmt: skip
    request = submitted(job, code)
    base = tmp_path / "opt/ml"
    done = start(request, aws.boto, base)
    assert done.returncode == 0, done.stderr[-3000:]
    folder, model = base / "checkpoints/eda_tcn", base / "model"
    assert f"--dataset {base}/input/data/training" in done.stdout
    assert {"model.safetensors", "metrics.json", "report.html"} <= {path.name for path in model.iterdir()}
    assert not list(model.glob("checkpoint-*"))
    assert list(folder.glob("checkpoint-*"))
    assert json.loads((model / "metrics.json").read_text())["training"]["steps"] == 2
    assert not (base / "output/failure").exists()

    found = read_metrics(metrics(request), done.stdout.splitlines())
    told = json.loads((model / "metrics.json").read_text())["training"]["log"]
    assert len(found["loss"]) == len(found["eval_loss"]) == len(found["eval_pearson"]) == 2
    assert found.keys() == {definition["Name"] for definition in metrics(request)}
    validated = [entry["eval_pearson"] for entry in told if "eval_pearson" in entry]
    assert [float(value) for value in found["eval_pearson"]] == pytest.approx(validated, rel=1e-3)

    brought = fetch_model(connect("us-east-1"), job, described(request))
    assert load_file(brought / "model.safetensors").keys() == load_file(model / "model.safetensors").keys()

    # As an interruption in the second step leaves it.
    weights = load_file(model / "model.safetensors")
    shutil.rmtree(folder / "checkpoint-2")
    for left in ("metrics.json", "model.safetensors", "report.html"):
        (folder / left).unlink()
    again = start(request, aws.boto, base, keep_checkpoints=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "--resume_from_checkpoint true" in again.stdout
    assert len(read_metrics(metrics(request), again.stdout.splitlines())["eval_loss"]) == 1
    resumed = load_file(model / "model.safetensors")
    assert all((resumed[name] == weights[name]).all() for name in weights)


def submitted(job: Job, code: Code) -> dict[str, Any]:
    """Send a job to moto; its request."""
    request = build_request(job, code)
    check_request(request)
    sagemaker_follow.submit(connect(job.region), job, code, request)
    return request


def described(request: dict[str, Any]) -> dict[str, Any]:
    """What SageMaker says of a job in the end."""
    return connect("us-east-1").sagemaker.describe_training_job(TrainingJobName=request["TrainingJobName"])


@pytest.mark.slow
def test_a_job_that_fails_says_why_where_sagemaker_looks(tmp_path: Path, aws: FakeS3, code: Code) -> None:
    request = submitted(parse_job(words("--dataset", "someone/nothing", "--environment", "HF_HUB_OFFLINE=1")), code)
    base = tmp_path / "opt/ml"
    done = start(request, aws.boto, base)
    assert done.returncode == 1
    failure = (base / "output/failure").read_text()
    assert failure.startswith("exit status 1: ")
    assert "someone/nothing" in failure
    assert "\n" not in failure
    assert not list((base / "model").iterdir())


@pytest.mark.slow
def test_sigterm_reaches_the_processes_below_the_launcher(tmp_path: Path) -> None:
    """A spot machine is announced to go by SIGTERM, which `accelerate launch` would keep for itself."""
    below = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    launcher = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {below!r}]))"
    entry = (
        f"import os, sys; sys.path.insert(0, {str(REPOSITORY / 'training')!r}); import sagemaker_entry\n"
        f"print(sagemaker_entry.run([sys.executable, '-c', {launcher!r}], os.environ)[0])"
    )
    process = subprocess.Popen([sys.executable, "-c", entry], stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert out.splitlines()[-1] == "143"
    deadline = time.monotonic() + 30  # the signal is sent to all at once; the last may end a little later
    while is_running(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Whether a process works on; one that ended and waits to be buried does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
