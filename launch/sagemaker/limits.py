"""Find the errors in a request for a training job that SageMaker would report only after the upload.

Lengths, patterns, counts and instance types are taken from the service model in botocore. botocore itself checks only
types, required members and minimum lengths.
"""

import difflib
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session

from system.text import contains_secret

# S3's rules: 3 to 63 characters, no IPv4 address, no two dots in a row.
BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
LONGEST_RUN = 28 * 24 * 3600  # s; limit of MaxRuntimeInSeconds, which the service model has only in its documentation
# Path prefix of a member of the request -> the option that sets it. The first matching prefix counts.
OPTIONS = {
    "TrainingJobName": "--job_name",
    "RoleArn": "--role",
    "ResourceConfig.InstanceType": "--instance_type",
    "ResourceConfig.InstanceCount": "--instance_count",
    "ResourceConfig.VolumeSizeInGB": "--volume_size",
    "ResourceConfig.VolumeKmsKeyId": "--volume_kms_key",
    "AlgorithmSpecification.TrainingImage": "--image_uri",
    "AlgorithmSpecification.TrainingInputMode": "--input_mode",
    "InputDataConfig": "--channel",
    "OutputDataConfig.KmsKeyId": "--output_kms_key",
    "CheckpointConfig": "--checkpoints",
    "Environment": "--environment",
    "VpcConfig.Subnets": "--subnets",
    "VpcConfig.SecurityGroupIds": "--security_group_ids",
    "StoppingCondition.MaxRuntimeInSeconds": "--max_run",
    "StoppingCondition.MaxWaitTimeInSeconds": "--max_wait",
    "RetryStrategy": "--retry_attempts",
    "Tags": "--tag",
    "HyperParameters": "settings of the run",
}
# The patterns in the service model use Java's character classes. These are the closest ones in Python.
JAVA_CLASSES = {r"\p{L}": r"\w", r"\p{N}": r"\d", r"\p{Z}": " "}
SECRET_WORDS = {
    "key", "keys", "secret", "secrets", "token", "password", "passwd", "passphrase", "credential", "credentials",
}  # fmt: skip


def check_request(request: dict[str, Any]) -> None:
    """Raise ValueError with the first error that SageMaker would find in a request for CreateTrainingJob."""
    for problem in request_problems(request):
        raise ValueError(problem)


def request_problems(request: dict[str, Any]) -> Iterator[str]:
    """Yield one line per error: first in single members of the request, then in their combination."""
    yield from shape_problems(request_shape(), request, "")
    stopping = request["StoppingCondition"]
    longest, wait = stopping["MaxRuntimeInSeconds"], stopping.get("MaxWaitTimeInSeconds")
    if longest > LONGEST_RUN:
        yield f"--max_run={longest}: SageMaker stops a job after {LONGEST_RUN} s (28 days). Give a smaller number."
    if request["EnableManagedSpotTraining"]:
        if wait is None or wait < longest:
            yield f"--max_wait={wait}: must not be less than --max_run={longest}, which it includes. Increase it."
        if "CheckpointConfig" not in request:
            yield "--spot: without checkpoints, the job starts over after each interruption. Give --checkpoints s3://..."
    elif wait is not None:
        yield f"--max_wait={wait}: is only for spot jobs. Add --spot, or remove the option."
    channels = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
    if repeated := sorted({name for name in channels if channels.count(name) > 1}):
        yield f"--channel={repeated[0]}: is given twice. Give each channel a different name."


@cache
def request_shape() -> Any:
    """Return botocore's model of a request for CreateTrainingJob."""
    return botocore.session.Session().get_service_model("sagemaker").operation_model("CreateTrainingJob").input_shape


def shape_problems(shape: Any, value: Any, path: str) -> Iterator[str]:
    """Yield the errors in a value and, recursively, in its members. botocore has already checked their types."""
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from shape_problems(shape.members[name], inner, f"{path}.{name}" if path else name)
        return
    limits = shape.metadata
    if shape.type_name in ("list", "map"):
        yield from size_problems(len(value), limits, path, "entries")
        for key, inner in value.items() if shape.type_name == "map" else enumerate(value):
            if shape.type_name == "map":
                yield from shape_problems(shape.key, key, f"{path} (a name)")
            yield from shape_problems(
                shape.value if shape.type_name == "map" else shape.member, inner, f"{path}[{key}]"
            )
    elif shape.type_name == "string":
        yield from string_problems(shape, value, path)
    elif shape.type_name in ("integer", "long"):
        yield from size_problems(value, limits, path, "")


def string_problems(shape: Any, value: str, path: str) -> Iterator[str]:
    """Yield the errors in a string: an unknown value, a wrong length, or a pattern that does not match."""
    if shape.enum and value not in shape.enum:
        nearest = difflib.get_close_matches(value, shape.enum, n=1, cutoff=0.5)
        advice = f"Did you mean {nearest[0]!r}?" if nearest else f"Give one of {', '.join(shape.enum[:8])}, ..."
        yield f"{origin(path)}={value!r}: not one of the {len(shape.enum)} values that SageMaker supports. {advice}"
        return
    yield from size_problems(len(value), shape.metadata, path, "characters")
    pattern = shape.metadata.get("pattern", r"[\s\S]*")
    if not re.fullmatch(translated(pattern), value):
        yield f"{origin(path)}={value!r}: does not match SageMaker's pattern. Give a value that matches {pattern}"


def size_problems(size: int, limits: dict[str, Any], path: str, unit: str) -> Iterator[str]:
    """Yield an error if a length, a count or a number is out of range."""
    lowest, highest = limits.get("min", 0), limits.get("max", float("inf"))  # the model may omit either
    if not lowest <= size <= highest:
        bound = f"at most {highest}" if size > highest else f"at least {lowest}"
        yield f"{origin(path)}: {size} {unit}".rstrip() + f", but SageMaker allows {bound}. Change it."


def origin(path: str) -> str:
    """Return the path of a member of the request, with the option that sets it."""
    option = next((option for prefix, option in OPTIONS.items() if path.startswith(prefix)), None)
    return f"{option} ({path})" if option else path


def translated(pattern: str) -> str:
    """Translate a pattern of the service model from Java's syntax to Python's."""
    for java, python in JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    return pattern


def check_bucket(name: str) -> None:
    """Raise ValueError for an invalid bucket name. The service model has no pattern for it."""
    if not BUCKET.fullmatch(name):
        raise ValueError(
            f"--bucket={name!r}: not a bucket name. Give 3 to 63 lower-case letters, digits, dots and hyphens, "
            "without s3://."
        )


def check_no_secrets(values: dict[str, str], where: str) -> None:
    """Raise ValueError for values that look like credentials. Everyone with access to the job can see them."""
    for name, value in values.items():
        if contains_secret(value):
            raise ValueError(
                f"{where} {name}: the value looks like a secret, and everyone with access to the job can see it. "
                "Remove it, and give the permission to the role of the job."
            )


def check_environment(environment: dict[str, str]) -> None:
    """Raise ValueError for environment variables whose name or value suggests a secret."""
    for name in environment:
        if SECRET_WORDS & set(name.lower().split("_")):
            raise ValueError(
                f"--environment {name}: its name suggests a secret, and everyone with access to the job can see it. "
                "Remove it, and give the permission to the role of the job."
            )
    check_no_secrets(environment, "--environment")
