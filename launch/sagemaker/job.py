"""Turn the command line of run_sagemaker.py into a request for a SageMaker training job."""

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

# Values that Trainer logs in addition to the validation metrics of the task.
LOGGED = (
    "loss", "grad_norm", "learning_rate", "epoch", "train_loss", "train_runtime", "train_samples_per_second",
    "eval_runtime", "eval_samples_per_second",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A job, checked as far as possible without AWS."""

    name: str
    config: str  # path in the repository, with slashes
    run: Run  # the run as it will be in the container
    settings: dict[str, str | list[str]]  # further keys of the run, with their command-line arguments
    channels: dict[str, str]  # channel name -> s3:// URL
    region: str
    options: argparse.Namespace


def parse_job(argv: list[str]) -> Job:
    """Read the command line of run_sagemaker.py, and build the run as run_train.py will in the container."""
    job_options = read_job(argv)
    options = job_options.options
    # TrainingArguments rejects bf16 and tf32 on a machine without a GPU. The machine of the job has one.
    local_overrides = [] if torch.cuda.is_available() else ["--use_cpu", "true", "--tf32", "false"]
    run = parse_run([*job_options.run, *local_overrides])
    if options.spot and run.training.save_strategy == "no":
        raise ValueError(
            "save_strategy='no': without checkpoints, a spot job starts over after each interruption. "
            "Give another strategy, or remove --spot."
        )
    # A job name has at most 63 letters, digits and hyphens, of which the time takes 16.
    name = options.job_name or f"{re.sub('[^a-zA-Z0-9]+', '-', run.name)[:40].strip('-')}-{time_stamp()}"
    region = region_of(options.region)
    return Job(name, job_options.config, run, job_options.settings, job_options.channels, region, options)


def region_of(option: str | None) -> str:
    """Return the value of --region, or the region in the AWS settings."""
    region = option or botocore.session.Session().get_config_variable("region")
    if not region:
        raise ValueError("--region: no region is set. Give one, such as eu-west-1, or set AWS_DEFAULT_REGION.")
    return region


def time_stamp() -> str:
    """Return the current time (UTC) for the name of a job."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime())


def check_reaches_container(job: Job, code: Code) -> None:
    """Raise ValueError for settings that name files of this machine which are not part of the uploaded code."""
    for key, value in job.run.resolved().items():
        # Anything with a slash may be a path. Paths in the container and on S3 are fine, and so are Hub names.
        if not isinstance(value, str) or "/" not in value or value.startswith((f"{IN_CONTAINER}/", "s3://")):
            continue
        path = (REPOSITORY / value).resolve()
        inside = path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else None
        shipped = inside is not None and any(f == inside or f.startswith(f"{inside}/") for f in code.files)
        if not shipped and (path.exists() or (inside and path.parent.is_dir())):
            raise ValueError(
                f"{key}={value!r}: is not uploaded with the code, so the job would not find it. Copy it to S3, give "
                f"--channel name=s3://..., and set --{key} {IN_CONTAINER}/input/data/name."
            )
    dataset, config = job.run.arguments.dataset, job.run.arguments.dataset_config or ""
    if (REPOSITORY / dataset / ".huggingface.yaml").exists() and not config.startswith("sample"):
        raise ValueError(
            f"dataset={dataset!r}: prepared data is not uploaded with the code, so the job would train on the sample. "
            "Write it to S3 (`prepare ... --output_dir s3://...`) and give --channel training=s3://..., or set "
            "--dataset_config sample."
        )


def build_request(job: Job, code: Code) -> dict[str, Any]:
    """Return the request for CreateTrainingJob."""
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
        "OutputDataConfig": {"S3OutputPath": bucket_url(job, "jobs")},
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
    # Spot and retried jobs start on a new machine, so they need checkpoints on S3 to continue.
    if options.checkpoints or options.spot or options.retry_attempts:
        where = options.checkpoints or bucket_url(job, f"jobs/{job.name}/checkpoints")
        request["CheckpointConfig"] = {"S3Uri": where, "LocalPath": f"{IN_CONTAINER}/checkpoints"}
    return request


def bucket_url(job: Job, key: str) -> str:
    """Return the URL of a key in the job's bucket, with its prefix."""
    return "s3://" + "/".join(filter(None, (job.options.bucket, job.options.bucket_prefix.strip("/"), key)))


def code_url(job: Job, code: Code) -> str:
    # The name contains the hash of the code, so unchanged code is uploaded only once.
    return bucket_url(job, f"code/{code.sha256}/source.tar.gz")


def hyperparameters(job: Job, code: Code) -> dict[str, str]:
    """Return the parameters of SageMaker's training toolkit and the settings of the run, each encoded as JSON."""
    toolkit = {
        "sagemaker_program": ENTRY,
        "sagemaker_submit_directory": code_url(job, code),
        "sagemaker_region": job.region,
        "sagemaker_container_log_level": 20,
    }
    return {key: json.dumps(value) for key, value in (toolkit | {"config": job.config} | job.settings).items()}


def channel(name: str, url: str, mode: str) -> dict[str, Any]:
    """Return the definition of a channel with all objects below an S3 prefix."""
    # Without the slash, the prefix s3://b/data would also match s3://b/data2.
    source = {"S3DataType": "S3Prefix", "S3Uri": f"{url.rstrip('/')}/", "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": mode}


def metric_definitions(task: Task) -> list[dict[str, str]]:
    """Return the patterns by which SageMaker finds metrics in the log of the job."""
    # Trainer logs dicts whose values may be quoted: {'eval_loss': '3.035', ...}
    names = [*LOGGED, *(f"eval_{metric}" for metric in task.validation_metrics)]
    return [{"Name": name, "Regex": f"'{name}': '?([-+0-9.eE]+)'?"} for name in names]


def data_of(job: Job) -> str:
    """Describe where the data of a job comes from, and whether it is only the sample."""
    dataset = job.run.arguments.dataset
    if DATA_CHANNEL in job.channels:
        return job.channels[DATA_CHANNEL]
    return f"the sample in {dataset}, which is synthetic" if (REPOSITORY / dataset).is_dir() else dataset
