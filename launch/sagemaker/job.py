"""A SageMaker training job: what the command line asks for, as the one request that boto3 sends."""

import argparse
import difflib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import torch

from launch.run import parse_run
from launch.sagemaker.archive import ENTRY, Code
from launch.sagemaker.limits import check_bucket, check_environment, check_no_secrets
from system.storage import parse_s3_url
from training.command_line import read_config
from training.settings import SECRET_KEYS
from training.task import Run, Task

REPOSITORY = Path(__file__).resolve().parents[2]
DATA_CHANNEL = "training"  # becomes the run's `dataset`
IN_CONTAINER = "/opt/ml"
SET_BY_THE_JOB = {
    "output_dir": "the model comes back by --wait, or from the bucket",
    "resume_from_checkpoint": "a job that was interrupted goes on by itself",
    "push_to_hub": "a job has no token of yours; push what --wait brings back",
    "config": "it is the first argument",
}
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
    """The command line of run_sagemaker.py; what it does not know are settings of the run."""
    parser = make_parser()
    options, rest = parser.parse_known_args(argv)
    config = config_in_repository(options.config)
    settings = read_settings(rest)
    channels = dict(read_pairs(options.channel, "--channel", "training=s3://bucket/prefix"))
    options.environment = dict(read_pairs(options.environment, "--environment", "NAME=value"))
    options.tag = dict(read_pairs(options.tag, "--tag", "project=feltsound"))
    check_bucket(options.bucket)
    check_environment(options.environment)
    check_settings(settings, channels)
    for url in channels.values():
        parse_s3_url(url)
    run = parse_as_in_container(config, rest, channels, parser)
    if options.spot and run.training.save_strategy == "no":
        raise ValueError("save_strategy no: a spot job without checkpoints begins anew whenever it is interrupted")
    name = options.job_name or f"{re.sub('[^a-zA-Z0-9]+', '-', run.name)[:40].strip('-')}-{time_stamp()}"
    return Job(name, config, run, settings, channels, region_of(options.region), options)


def make_parser() -> argparse.ArgumentParser:
    """The options of a job; none is called like a key of a run."""
    parser = argparse.ArgumentParser(
        prog="run_sagemaker.py",
        description="Train a config on SageMaker as run_train.py does here. Other --key value go to the run.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("config", help="A config such as configs/eda_tcn.json.")
    add("--role", required=True, help="ARN of the role that the job takes.")
    add("--bucket", required=True, help="Bucket for code, checkpoints and the model, in the job's region.")
    add("--bucket_prefix", default="feltsound", help="Where in the bucket; by default feltsound.")
    add("--instance_type", required=True, help="For instance ml.g5.xlarge.")
    add("--instance_count", type=int, default=1, help="Machines, which train one model together.")
    # No default: the registry's account differs by region, and an image must have a torch that fits pyproject.toml.
    add("--image_uri", required=True, help="Training image with SageMaker's training toolkit, in the job's region.")
    add("--region", help="By default that of the AWS settings.")
    add("--job_name", help="By default <config>-<time>.")
    add("--channel", action="append", default=[], metavar="NAME=S3URL", help="`training` is the data set; repeatable.")
    add("--input_mode", default="File", choices=["File", "FastFile"], help="Copy channels first, or read as needed.")
    add("--environment", action="append", default=[], metavar="NAME=VALUE", help="Variable of the container.")
    add("--max_run", type=int, default=24 * 3600, help="Seconds after which the job is stopped; by default a day.")
    add("--spot", action="store_true", help="Spare capacity: cheaper, interrupted at times, and goes on by itself.")
    add("--max_wait", type=int, help="Seconds that a spot job may take with its waiting; by default 2 x --max_run.")
    add("--checkpoints", metavar="S3URL", help="Where checkpoints go; spot and retried jobs have a place by default.")
    add("--retry_attempts", type=int, help="Attempts after failures of SageMaker's own.")
    add("--volume_size", type=int, default=50, help="GB of disk, where the instance has none of its own.")
    add("--volume_kms_key", help="KMS key of that disk.")
    add("--output_kms_key", help="KMS key of code and model in the bucket.")
    add("--subnets", nargs="+", default=[], help="Of a VPC; needs --security_group_ids.")
    add("--security_group_ids", nargs="+", default=[], help="Of a VPC; needs --subnets.")
    add("--encrypt_traffic", action="store_true", help="Encrypt what machines of one job say to each other.")
    add("--tag", action="append", default=[], metavar="KEY=VALUE", help="Repeatable.")
    add("--dry_run", action="store_true", help="Print the request as JSON; nothing is sent anywhere.")
    add("--wait", action="store_true", help="Follow status and logs to the end, and fetch the model.")
    add("--download_to", help="Folder for the model; by default outputs/<job name>.")
    return parser


def config_in_repository(config: str) -> str:
    """The config's path as the container has it."""
    read_config(Path(config))
    path = Path(config).resolve()
    if not path.is_relative_to(REPOSITORY):
        raise ValueError(f"{config} is not in {REPOSITORY}, which is what a job gets; copy it into configs/")
    return path.relative_to(REPOSITORY).as_posix()


def read_settings(rest: list[str]) -> dict[str, str | list[str]]:
    """`--key value ...` as words by key; a flag alone means true, as it does to run_train.py."""
    settings: dict[str, list[str]] = {}
    key = None
    for word in rest:
        if word.startswith("--"):
            key, equals, value = word.removeprefix("--").partition("=")
            settings[key] = [value] if equals else []
        elif key is None:
            raise ValueError(f"unexpected {word!r}; settings are given as --key value")
        else:
            settings[key].append(word)
    return {key: words[0] if len(words) == 1 else words or "true" for key, words in settings.items()}


def read_pairs(texts: list[str], option: str, example: str) -> list[tuple[str, str]]:
    """Read NAME=VALUE; a name given twice is an error."""
    pairs = [(name, value) for name, _, value in (text.partition("=") for text in texts)]
    for text, (name, _) in zip(texts, pairs, strict=True):
        if not name or "=" not in text:
            raise ValueError(f"{option} {text!r}: expected {example}")
        if [other for other, _ in pairs].count(name) > 1:
            raise ValueError(f"{option} {name} is given twice")
    return pairs


def check_settings(settings: dict[str, str | list[str]], channels: dict[str, str]) -> None:
    """Refuse keys that the job sets itself, and secrets."""
    for key in settings:
        if key in SECRET_KEYS:
            raise ValueError(f"--{key} is a secret, and whoever may describe a job sees its settings; leave it out")
        if key in SET_BY_THE_JOB:
            raise ValueError(f"--{key} is not for you to set: {SET_BY_THE_JOB[key]}")
    if "dataset" in settings and DATA_CHANNEL in channels:
        raise ValueError(f"--dataset and --channel {DATA_CHANNEL} are two ways to name the data; choose one")
    check_no_secrets({key: json.dumps(words) for key, words in settings.items()}, "setting")


def parse_as_in_container(
    config: str, rest: list[str], channels: dict[str, str], parser: argparse.ArgumentParser
) -> Run:
    """The run as run_train.py will understand it there, so that a wrong key fails here."""
    check_no_secrets({key: json.dumps(value) for key, value in read_config(REPOSITORY / config).items()}, config)
    folder = ["--output_dir", f"{IN_CONTAINER}/checkpoints/{Path(config).stem}"]
    data = ["--dataset", f"{IN_CONTAINER}/input/data/{DATA_CHANNEL}"] if DATA_CHANNEL in channels else []
    # A machine without a GPU refuses bf16 unless it is told to use its CPU, and tf32 anyway; the job's has one.
    here = [] if torch.cuda.is_available() else ["--use_cpu", "true", "--tf32", "false"]
    try:
        return parse_run([str(REPOSITORY / config), *rest, *folder, *data, *here])
    except SystemExit as error:
        own = [flag for action in parser._actions for flag in action.option_strings]
        for flag in (word.partition("=")[0] for word in rest if word.startswith("--")):
            nearest = difflib.get_close_matches(flag, own, n=1, cutoff=0.8)
            if nearest and f"unknown key {flag.removeprefix('--')!r}" in str(error):
                raise ValueError(f"unknown option {flag}; did you mean {nearest[0]}?") from error
        raise


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
