"""A command line of run_sagemaker.py gives the right request, or an error that names the option."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import run_sagemaker
from launch.run import load_task
from launch.sagemaker import job as sagemaker_job
from launch.sagemaker import options as sagemaker_options
from launch.sagemaker.archive import Code
from launch.sagemaker.job import build_request, check_reaches_container, metric_definitions, parse_job
from launch.sagemaker.limits import check_request
from launch.sagemaker.options import make_parser
from launch.settings import setting_groups, settings_of
from tasks import TASKS
from tests.conftest import REPOSITORY
from tests.helpers.sagemaker_jobs import (
    CONFIG,
    EVAL_LINE,
    IMAGE,
    ROLE,
    TRAIN_LINE,
    metrics,
    read_metrics,
    request_of,
    words,
)
from training.command_line import type_hints
from training.settings import RunArguments
from training.trainer_arguments import RunTrainingArguments

# Errors


@pytest.mark.parametrize("missing", ["--role", "--bucket", "--instance_type", "--image_uri"])
def test_a_missing_required_option_is_named(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = words()
    place = line.index(missing)
    with pytest.raises(SystemExit):
        parse_job(line[:place] + line[place + 2 :])
    assert capsys.readouterr().err.splitlines()[-1].endswith(f": {missing}")


def test_a_missing_region_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    line = words()
    place = line.index("--region")
    with pytest.raises(ValueError, match="^--region: .*AWS_DEFAULT_REGION"):
        parse_job(line[:place] + line[place + 2 :])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert parse_job(line[:place] + line[place + 2 :]).region == "eu-west-1"


def test_a_config_outside_the_repository_or_with_a_secret_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mine.json"
    config.write_text('{"run_name": "AKIAIOSFODNN7EXAMPLE"}')
    with pytest.raises(ValueError, match=rf"{config}: .*configs/"):
        parse_job(words(config=str(config)))
    for module in (sagemaker_job, sagemaker_options):
        monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    with pytest.raises(ValueError, match="run_name: .*secret") as error:
        parse_job(words(config=str(config)))
    assert "AKIA" not in str(error.value)
    with pytest.raises(ValueError, match=r"none\.json: "):
        parse_job(words(config=str(tmp_path / "none.json")))


def test_only_files_that_are_part_of_the_code_are_accepted(tmp_path: Path, code: Code) -> None:
    model = tmp_path / "model"
    model.mkdir()
    job = parse_job(words("--model_name_or_path", str(model)))
    with pytest.raises(ValueError, match=f"model_name_or_path='{model}': "):
        check_reaches_container(job, code)
    with pytest.raises(ValueError, match="dataset='hf_datasets/pmemoo': "):
        check_reaches_container(parse_job(words("--dataset", "hf_datasets/pmemoo")), code)
    check_reaches_container(parse_job(words("--dataset", "someone/on-the-hub")), code)
    check_reaches_container(parse_job(words(config=str(REPOSITORY / "configs/meld_sample.json"))), code)
    check_reaches_container(parse_job(words("--model_name_or_path", "/opt/ml/input/data/model")), code)


def test_local_prepared_data_is_not_silently_replaced_by_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hf_datasets/pmemo").mkdir(parents=True)
    (tmp_path / "hf_datasets/pmemo/.huggingface.yaml").touch()
    (tmp_path / "hf_datasets/pmemo/README.md").touch()
    (tmp_path / "configs").mkdir()
    shutil.copy(CONFIG, tmp_path / "configs")
    for module in (sagemaker_job, sagemaker_options):
        monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    code = Code(b"", frozenset({"hf_datasets/pmemo/README.md"}))
    config = str(tmp_path / "configs/eda_tcn.json")
    with pytest.raises(ValueError, match="dataset='hf_datasets/pmemo': .*--dataset_config sample"):
        check_reaches_container(parse_job(words(config=config)), code)
    check_reaches_container(parse_job(words("--dataset_config", "sample", config=config)), code)
    check_reaches_container(parse_job(words("--channel", "training=s3://lab/pmemo", config=config)), code)


def test_options_of_a_job_and_keys_of_a_run_have_different_names() -> None:
    options = {action.dest for action in make_parser()._actions} - {"help"}
    for task in TASKS:
        assert (
            not options
            & type_hints((RunArguments, *setting_groups(settings_of(task)).values(), RunTrainingArguments)).keys()
        )


# Requests


def test_every_option_reaches_the_request(capsys: pytest.CaptureFixture[str], code: Code) -> None:
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


def test_optional_parts_of_the_request_are_left_out_by_default() -> None:
    request = request_of()
    assert not request.keys() & {"InputDataConfig", "VpcConfig", "CheckpointConfig", "RetryStrategy"}
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 86400}
    assert request["EnableManagedSpotTraining"] is False
    assert request_of("--spot")["StoppingCondition"]["MaxWaitTimeInSeconds"] == 2 * 86400
    assert request_of("--checkpoints", "s3://lab/c")["CheckpointConfig"]["S3Uri"] == "s3://lab/c"


def test_the_default_name_of_a_job_is_its_config_and_the_time() -> None:
    line = words()
    place = line.index("--job_name")
    name = parse_job(line[:place] + line[place + 2 :]).name
    assert re.fullmatch(r"eda-tcn-\d{8}-\d{6}", name)


@pytest.mark.parametrize("task", TASKS)
def test_metric_definitions_match_the_scores_of_every_task_within_the_limit(task: str) -> None:
    definitions = metric_definitions(load_task(task))
    assert len(definitions) <= 40
    found = read_metrics(definitions, [TRAIN_LINE])
    assert found == {"loss": ["3.387"], "grad_norm": ["33.06"], "learning_rate": ["3e-05"], "epoch": ["0.2"]}
    for metric in load_task(task).validation_metrics:
        line = {f"eval_{metric}": "0.5", "epoch": "1"}
        assert read_metrics(definitions, [str(line)]) == {f"eval_{metric}": ["0.5"], "epoch": ["1"]}
    assert read_metrics(definitions, ["{'loss': 'nan'}"]) == {}


def test_metric_definitions_do_not_match_longer_names() -> None:
    found = read_metrics(metric_definitions(load_task("eda")), [EVAL_LINE])
    assert found == {
        "eval_loss": ["1.065"],
        "eval_rmse": ["1.025"],
        "eval_pearson": ["-0.2778"],
        "eval_runtime": ["0.4528"],
        "epoch": ["1"],
    }


def test_the_documented_policies_and_notebook_cell_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs/sagemaker.md").read_text(encoding="utf-8")
    policy, cors = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    assert policy["Version"] == "2012-10-17"
    assert cors[0]["AllowedMethods"] == ["PUT", "POST"]
    (cell,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    sent: list[list[str]] = []
    monkeypatch.setattr(run_sagemaker, "main", sent.append)
    exec(cell)
    check_request(build_request(parse_job([*sent[0], "--region", "us-east-1"]), Code(b"", frozenset())))
    (command,) = re.findall(r"python (run_sagemaker.py .*?)\n```", page, re.DOTALL)
    parse_job([*command.replace("\\\n", " ").split()[1:], "--region", "us-east-1"])
