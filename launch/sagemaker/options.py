"""Read and check the command line of run_sagemaker.py, without torch and AWS."""

import argparse
import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from launch.sagemaker.limits import check_bucket, check_environment, check_no_secrets
from launch.settings import read_settings
from system.storage import parse_s3_url
from training.command_line import read_config
from training.settings import SECRET_KEYS

REPOSITORY = Path(__file__).resolve().parents[2]
DATA_CHANNEL = "training"  # the channel that becomes the run's `dataset`
IN_CONTAINER = "/opt/ml"  # SageMaker's folder for data, checkpoints and the model
# Keys of a run that cannot be set for a job -> what to do instead.
SET_BY_THE_JOB = {
    "output_dir": "Use --wait to download the model, or get it from the bucket.",
    "resume_from_checkpoint": "An interrupted job resumes automatically.",
    "push_to_hub": "Use --wait to download the model, then run `python -m launch.sharing`.",
    "config": "Give the config as the first argument.",
}


@dataclass(frozen=True)
class JobOptions:
    """The checked command line of run_sagemaker.py."""

    config: str  # path in the repository, with slashes
    settings: dict[str, str | list[str]]  # further keys of the run, with their command-line arguments
    channels: dict[str, str]  # channel name -> s3:// URL
    options: argparse.Namespace
    run: list[str]  # arguments of run_train.py in the container


def read_job(argv: list[str]) -> JobOptions:
    """Read the command line of run_sagemaker.py. Unknown options are settings of the run."""
    parser = make_parser()
    options, rest = parser.parse_known_args(argv)  # `rest` is checked below, by the parser of run_train.py
    config = config_in_repository(options.config)
    settings = read_settings_of_run(rest)
    channels = dict(read_pairs(options.channel, "--channel", "training=s3://bucket/prefix"))
    options.environment = dict(read_pairs(options.environment, "--environment", "NAME=value"))
    options.tag = dict(read_pairs(options.tag, "--tag", "project=feltsound"))
    check_bucket(options.bucket)
    check_environment(options.environment)
    check_settings(settings, channels)
    for url in channels.values():
        parse_s3_url(url)
    run = run_in_container(config, rest, channels, parser)
    return JobOptions(config, settings, channels, options, run)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser for the options of a job. No option may have the name of a key of a run."""
    parser = argparse.ArgumentParser(
        prog="run_sagemaker.py",
        description="Train a config on SageMaker as run_train.py does locally. Other --key value arguments go to the "
        "run.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("config", help="A config such as configs/eda_tcn.json.")
    add("--role", required=True, help="ARN of the IAM role of the job.")
    add("--bucket", required=True, help="Bucket for code, checkpoints and the model, in the region of the job.")
    add("--bucket_prefix", default="feltsound", help="Prefix in the bucket; by default feltsound.")
    add("--instance_type", required=True, help="Instance type, such as ml.g5.xlarge.")
    add("--instance_count", type=int, default=1, help="Number of machines, which train one model together; default 1.")
    # No default: the registry's account differs by region, and an image must have a torch that fits pyproject.toml.
    add("--image_uri", required=True, help="Image with SageMaker's training toolkit, in the region of the job.")
    add("--region", help="AWS region; by default that of the AWS settings.")
    add("--job_name", help="Name of the job; by default <config>-<time>.")
    add(
        "--channel",
        action="append",
        default=[],
        metavar="NAME=S3URL",
        help="Input channel; `training` becomes the data set of the run. Can be repeated.",
    )
    add(
        "--input_mode",
        default="File",
        choices=["File", "FastFile"],
        help="File (default) copies the channels before training, FastFile reads them as needed.",
    )
    add(
        "--environment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="Environment variable of the container. Can be repeated.",
    )
    add("--max_run", type=int, default=24 * 3600, help="Time limit of the job in s; by default one day.")
    add(
        "--spot",
        action="store_true",
        help="Use spot instances: cheaper, with interruptions that the job resumes from.",
    )
    add("--max_wait", type=int, help="Time limit of a spot job in s, with its waiting; by default twice --max_run.")
    add("--checkpoints", metavar="S3URL", help="S3 prefix for checkpoints; by default set for spot and retried jobs.")
    add("--retry_attempts", type=int, help="Number of retries after internal errors of SageMaker; by default none.")
    add("--volume_size", type=int, default=50, help="Disk size in GB, for instances without local disk; default 50.")
    add("--volume_kms_key", help="KMS key for the disk.")
    add("--output_kms_key", help="KMS key for code and model in the bucket.")
    add("--subnets", nargs="+", default=[], help="Subnets of a VPC; needs --security_group_ids.")
    add("--security_group_ids", nargs="+", default=[], help="Security groups of a VPC; needs --subnets.")
    add("--encrypt_traffic", action="store_true", help="Encrypt the traffic between the machines of the job.")
    add("--tag", action="append", default=[], metavar="KEY=VALUE", help="Tag of the job. Can be repeated.")
    add("--dry_run", action="store_true", help="Print the request as JSON, without sending anything.")
    add("--wait", action="store_true", help="Follow status and logs until the job ends, and download the model.")
    add("--download_to", help="Folder for the model; by default outputs/<job name>.")
    return parser


def config_in_repository(config: str) -> str:
    """Return the path of a config in the repository; raise ValueError if it is elsewhere."""
    read_config(Path(config))
    path = Path(config).resolve()
    if not path.is_relative_to(REPOSITORY):
        raise ValueError(f"{config}: is not in {REPOSITORY}, so it is not uploaded. Copy it to configs/.")
    return path.relative_to(REPOSITORY).as_posix()


def read_settings_of_run(rest: list[str]) -> dict[str, str | list[str]]:
    """Return the values of `--key value ...` arguments by key. A key without a value is true, as in run_train.py."""
    settings: dict[str, list[str]] = {}
    key = None
    for argument in rest:
        if argument.startswith("--"):
            key, equals, value = argument.removeprefix("--").partition("=")
            settings[key] = [value] if equals else []
        elif key is None:
            raise ValueError(f"unexpected {argument!r}. Give settings as --key value.")
        else:
            settings[key].append(argument)
    return {key: values[0] if len(values) == 1 else values or "true" for key, values in settings.items()}


def read_pairs(texts: list[str], option: str, example: str) -> list[tuple[str, str]]:
    """Parse NAME=VALUE arguments; raise ValueError for a repeated name."""
    pairs = [(name, value) for name, _, value in (text.partition("=") for text in texts)]
    for text, (name, _) in zip(texts, pairs, strict=True):
        if not name or "=" not in text:
            raise ValueError(f"{option} {text!r}: wrong format. Write it like {example}.")
        if [other for other, _ in pairs].count(name) > 1:
            raise ValueError(f"{option} {name}: is given twice. Remove one of them.")
    return pairs


def check_settings(settings: dict[str, str | list[str]], channels: dict[str, str]) -> None:
    """Raise ValueError for secrets and for keys that the job sets."""
    for key in settings:
        if key in SECRET_KEYS:
            raise ValueError(f"--{key}: is a secret, and everyone with access to the job can see it. Remove it.")
        if key in SET_BY_THE_JOB:
            raise ValueError(f"--{key}: cannot be set for a job. {SET_BY_THE_JOB[key]}")
    if "dataset" in settings and DATA_CHANNEL in channels:
        raise ValueError(f"--dataset: cannot be combined with --channel {DATA_CHANNEL}. Remove one of the two.")
    check_no_secrets({key: json.dumps(values) for key, values in settings.items()}, "setting")


def run_in_container(
    config: str, rest: list[str], channels: dict[str, str], parser: argparse.ArgumentParser
) -> list[str]:
    """Return the arguments of run_train.py in the container; raise SystemExit or ValueError for wrong ones."""
    check_no_secrets({key: json.dumps(value) for key, value in read_config(REPOSITORY / config).items()}, config)
    # SageMaker copies checkpoints to S3, so the run's folder is inside it.
    folder = ["--output_dir", f"{IN_CONTAINER}/checkpoints/{Path(config).stem}"]
    data = ["--dataset", f"{IN_CONTAINER}/input/data/{DATA_CHANNEL}"] if DATA_CHANNEL in channels else []
    run = [str(REPOSITORY / config), *rest, *folder, *data]
    try:
        read_settings(run)
    except SystemExit as error:
        # An unknown key may also be a misspelt option of the job.
        own = [flag for action in parser._actions for flag in action.option_strings]
        for flag in (argument.partition("=")[0] for argument in rest if argument.startswith("--")):
            nearest = difflib.get_close_matches(flag, own, n=1, cutoff=0.8)
            if nearest and f"unknown key {flag.removeprefix('--')!r}" in str(error):
                raise ValueError(f"unknown option {flag}. Did you mean {nearest[0]}?") from error
        raise
    return run
