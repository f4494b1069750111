"""A SageMaker training job: what the command line asks for, as the one request that boto3 sends."""

import argparse
import json
import re
import time
from dataclasses import dataclass
from typing import Any

import botocore.session
import torch

from launch.run import parse_run
from launch.sagemaker.archive import ENTRY, Code
from launch.sagemaker.options import DATA_CHANNEL, IN_CONTAINER, REPOSITORY, read_job
from training.task import Run, Task

# What Trainer logs beside the validation metrics of a task.
LOGGED = (
    "loss", "grad_norm", "learning_rate", "epoch", "train_loss", "train_runtime", "train_samples_per_second",
    "eval_runtime", "eval_samples_per_second",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What was asked for, checked as far as it can be without AWS."""

    name: str
    config: str  # its path in the repository, with slashes
    run: Run  # as the container will understand it
    settings: dict[str, str | list[str]]  # further keys of the run, with their words on the command line
    channels: dict[str, str]  # s3:// URLs by name
    region: str
    options: argparse.Namespace


def parse_job(argv: list[str]) -> Job:
    """A job of the command line of run_sagemaker.py, with the run as run_train.py will understand it there."""
    asked = read_job(argv)
    options = asked.options
    # A machine without a GPU refuses bf16 unless use_cpu is set, and tf32 anyway; the job's has one.
    here = [] if torch.cuda.is_available() else ["--use_cpu", "true", "--tf32", "false"]
    run = parse_run([*asked.run, *here])
    if options.spot and run.training.save_strategy == "no":
        raise ValueError("save_strategy no: a spot job without checkpoints begins anew whenever it is interrupted")
    name = options.job_name or f"{re.sub('[^a-zA-Z0-9]+', '-', run.name)[:40].strip('-')}-{time_stamp()}"
    return Job(name, asked.config, run, asked.settings, asked.channels, region_of(options.region), options)


def region_of(option: str | None) -> str:
    """The region that was named, or that AWS's own settings name."""
    region = option or botocore.session.Session().get_config_variable("region")
    if not region:
        raise ValueError("no region: give --region eu-west-1 or the like, or set AWS_DEFAULT_REGION")
    return region


def time_stamp() -> str:
    """The time (UTC) as it stands in a job's name."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime())


def check_reaches_container(job: Job, code: Code) -> None:
    """Refuse settings that name files which are not in the code: those of this machine, and misspelt ones."""
    for key, value in job.run.resolved().items():
        if not isinstance(value, str) or "/" not in value or value.startswith((f"{IN_CONTAINER}/", "s3://")):
            continue
        path = (REPOSITORY / value).resolve()
        inside = path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else None
        shipped = inside is not None and any(f == inside or f.startswith(f"{inside}/") for f in code.files)
        if not shipped and (path.exists() or (inside and path.parent.is_dir())):
            raise ValueError(
                f"{key} = {value!r} is no part of the code, and a job would not find it; put what lies on this "
                f"machine on S3, give it as --channel name=s3://..., and set --{key} {IN_CONTAINER}/input/data/name"
            )
    dataset, config = job.run.arguments.dataset, job.run.arguments.dataset_config or ""
    if (REPOSITORY / dataset / ".huggingface.yaml").exists() and not config.startswith("sample"):
        raise ValueError(
            f"dataset = {dataset!r} holds prepared data, which does not travel with the code: a job would train on "
            "the sample. Write it to S3 (`prepare ... --output_dir s3://...`) and give --channel training=s3://..., "
            "or set --dataset_config sample"
        )


def build_request(job: Job, code: Code) -> dict[str, Any]:
    """The request of CreateTrainingJob."""
    options = job.options
    request: dict[str, Any] = {
        "TrainingJobName": job.name,
        "RoleArn": options.role,
        "AlgorithmSpecification": {
            "TrainingImage": options.image_uri,
            "TrainingInputMode": options.input_mode,
            "MetricDefinitions": metric_definitions(job.run.task),
        },
        "HyperParameters": hyperparameters(job, code),
        "OutputDataConfig": {"S3OutputPath": place(job, "jobs")},
        "ResourceConfig": {
            "InstanceType": options.instance_type,
            "InstanceCount": options.instance_count,
            "VolumeSizeInGB": options.volume_size,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": options.max_run},
        "EnableManagedSpotTraining": options.spot,
        "EnableInterContainerTrafficEncryption": options.encrypt_traffic,
        "Environment": options.environment,
        "Tags": [{"Key": key, "Value": value} for key, value in options.tag.items()],
    }
    if job.channels:
        request["InputDataConfig"] = [channel(*item, options.input_mode) for item in job.channels.items()]
    if options.output_kms_key:
        request["OutputDataConfig"]["KmsKeyId"] = options.output_kms_key
    if options.volume_kms_key:
        request["ResourceConfig"]["VolumeKmsKeyId"] = options.volume_kms_key
    if options.subnets or options.security_group_ids:
        request["VpcConfig"] = {"Subnets": options.subnets, "SecurityGroupIds": options.security_group_ids}
    if options.spot or options.max_wait is not None:
        wait = 2 * options.max_run if options.max_wait is None else options.max_wait
        request["StoppingCondition"]["MaxWaitTimeInSeconds"] = wait
    if options.retry_attempts is not None:
        request["RetryStrategy"] = {"MaximumRetryAttempts": options.retry_attempts}
    if options.checkpoints or options.spot or options.retry_attempts:
        where = options.checkpoints or place(job, f"jobs/{job.name}/checkpoints")
        request["CheckpointConfig"] = {"S3Uri": where, "LocalPath": f"{IN_CONTAINER}/checkpoints"}
    return request


def place(job: Job, key: str) -> str:
    """An address in the job's bucket."""
    return "s3://" + "/".join(filter(None, (job.options.bucket, job.options.bucket_prefix.strip("/"), key)))


def code_url(job: Job, code: Code) -> str:
    """Where the code lies; its name is its content, so it is uploaded once."""
    return place(job, f"code/{code.sha256}/source.tar.gz")


def hyperparameters(job: Job, code: Code) -> dict[str, str]:
    """What the training toolkit in the image reads, and the settings of the run; JSON in strings, as it expects."""
    toolkit = {
        "sagemaker_program": ENTRY,
        "sagemaker_submit_directory": code_url(job, code),
        "sagemaker_region": job.region,
        "sagemaker_container_log_level": 20,
    }
    return {key: json.dumps(value) for key, value in (toolkit | {"config": job.config} | job.settings).items()}


def channel(name: str, url: str, mode: str) -> dict[str, Any]:
    """A channel of all objects below a prefix. The slash keeps s3://b/data from meaning s3://b/data2 as well."""
    source = {"S3DataType": "S3Prefix", "S3Uri": f"{url.rstrip('/')}/", "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": mode}


def metric_definitions(task: Task) -> list[dict[str, str]]:
    """Patterns that find Trainer's scores in its log lines, where they are quoted: `{'eval_loss': '3.035', ...}`."""
    names = [*LOGGED, *(f"eval_{metric}" for metric in task.validation_metrics)]
    return [{"Name": name, "Regex": f"'{name}': '?([-+0-9.eE]+)'?"} for name in names]


def data_of(job: Job) -> str:
    """Where the job's data come from, in words; that it is only a sample may be news."""
    dataset = job.run.arguments.dataset
    if DATA_CHANNEL in job.channels:
        return job.channels[DATA_CHANNEL]
    return f"the sample in {dataset}, which is synthetic" if (REPOSITORY / dataset).is_dir() else dataset
