"""The command line of run_sagemaker.py, checked without torch and AWS."""

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
DATA_CHANNEL = "training"  # becomes the run's `dataset`
IN_CONTAINER = "/opt/ml"
SET_BY_THE_JOB = {
    "output_dir": "the model comes back by --wait, or from the bucket",
    "resume_from_checkpoint": "a job that was interrupted goes on by itself",
    "push_to_hub": "a job has no token of yours; push what --wait brings back",
    "config": "it is the first argument",
}


@dataclass(frozen=True)
class JobOptions:
    """What was asked for."""

    config: str  # its path in the repository, with slashes
    settings: dict[str, str | list[str]]  # further keys of the run, with their words on the command line
    channels: dict[str, str]  # s3:// URLs by name
    options: argparse.Namespace
    run: list[str]  # the command line of run_train.py in the container


def read_job(argv: list[str]) -> JobOptions:
    """The command line of run_sagemaker.py; what it does not know are settings of the run."""
    parser = make_parser()
    options, rest = parser.parse_known_args(argv)
    config = config_in_repository(options.config)
    settings = read_words(rest)
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


def read_words(rest: list[str]) -> dict[str, str | list[str]]:
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
            raise ValueError(f"--{key} is a secret, and all who may describe a job see its settings; leave it out")
        if key in SET_BY_THE_JOB:
            raise ValueError(f"--{key} is not for you to set: {SET_BY_THE_JOB[key]}")
    if "dataset" in settings and DATA_CHANNEL in channels:
        raise ValueError(f"--dataset and --channel {DATA_CHANNEL} are two ways to name the data; choose one")
    check_no_secrets({key: json.dumps(words) for key, words in settings.items()}, "setting")


def run_in_container(
    config: str, rest: list[str], channels: dict[str, str], parser: argparse.ArgumentParser
) -> list[str]:
    """The command line of run_train.py there, read here, so that a wrong key fails here."""
    check_no_secrets({key: json.dumps(value) for key, value in read_config(REPOSITORY / config).items()}, config)
    folder = ["--output_dir", f"{IN_CONTAINER}/checkpoints/{Path(config).stem}"]
    data = ["--dataset", f"{IN_CONTAINER}/input/data/{DATA_CHANNEL}"] if DATA_CHANNEL in channels else []
    run = [str(REPOSITORY / config), *rest, *folder, *data]
    try:
        read_settings(run)
    except SystemExit as error:
        own = [flag for action in parser._actions for flag in action.option_strings]
        for flag in (word.partition("=")[0] for word in rest if word.startswith("--")):
            nearest = difflib.get_close_matches(flag, own, n=1, cutoff=0.8)
            if nearest and f"unknown key {flag.removeprefix('--')!r}" in str(error):
                raise ValueError(f"unknown option {flag}; did you mean {nearest[0]}?") from error
        raise
    return run
