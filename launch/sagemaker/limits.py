"""What SageMaker would refuse, refused here: before anything is uploaded, and long before a machine is paid for.

Lengths, patterns, counts and instance types are AWS's own: they stand in the service model that botocore carries,
which botocore itself holds a request against only for types, required members and minimum lengths.
"""

import difflib
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session

from system.text import holds_secret

BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
LONGEST_RUN = 28 * 24 * 3600  # s, of MaxRuntimeInSeconds; the service model says it in words only
# The option that a member of the request comes from, by how its path begins; the first that fits.
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
JAVA_CLASSES = {r"\p{L}": r"\w", r"\p{N}": r"\d", r"\p{Z}": " "}  # of the model's patterns, as Python writes them
SECRET_WORDS = {
    "key", "keys", "secret", "secrets", "token", "password", "passwd", "passphrase", "credential", "credentials",
}  # fmt: skip


def check_request(request: dict[str, Any]) -> None:
    """Raise the first thing that SageMaker would refuse in a request of CreateTrainingJob, in one line."""
    for problem in request_problems(request):
        raise ValueError(problem)


def request_problems(request: dict[str, Any]) -> Iterator[str]:
    """All that SageMaker would refuse, one line each: limits of single members, then those between them."""
    yield from shape_problems(request_shape(), request, "")
    stopping = request["StoppingCondition"]
    longest, wait = stopping["MaxRuntimeInSeconds"], stopping.get("MaxWaitTimeInSeconds")
    if longest > LONGEST_RUN:
        yield f"--max_run {longest}: SageMaker stops a job after {LONGEST_RUN} s (28 days); give less"
    if request["EnableManagedSpotTraining"]:
        if wait is None or wait < longest:
            yield f"--max_wait {wait} is shorter than --max_run {longest}, which is part of it; give as much or more"
        if "CheckpointConfig" not in request:
            yield "a spot job without checkpoints begins anew whenever it is interrupted; give --checkpoints s3://..."
    elif wait is not None:
        yield f"--max_wait {wait} is about spot jobs; add --spot, or leave it out"
    channels = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
    if twice := sorted({name for name in channels if channels.count(name) > 1}):
        yield f"--channel {twice[0]} is given twice; each channel has a name of its own"


@cache
def request_shape() -> Any:
    """Return botocore's model of CreateTrainingJob's request, whose attributes are made at run time."""
    return botocore.session.Session().get_service_model("sagemaker").operation_model("CreateTrainingJob").input_shape


def shape_problems(shape: Any, value: Any, path: str) -> Iterator[str]:
    """Walk a value along its shape; types are botocore's business."""
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from shape_problems(shape.members[name], inner, f"{path}.{name}" if path else name)
        return
    limits = shape.metadata
    if shape.type_name in ("list", "map"):
        yield from size_problems(len(value), limits, path, "entries")
        for place, inner in value.items() if shape.type_name == "map" else enumerate(value):
            if shape.type_name == "map":
                yield from shape_problems(shape.key, place, f"{path} (a name)")
            yield from shape_problems(
                shape.value if shape.type_name == "map" else shape.member, inner, f"{path}[{place}]"
            )
    elif shape.type_name == "string":
        yield from string_problems(shape, value, path)
    elif shape.type_name in ("integer", "long"):
        yield from size_problems(value, limits, path, "")


def string_problems(shape: Any, value: str, path: str) -> Iterator[str]:
    """What is wrong with a text: not in the list, too long or short, or of another form."""
    if shape.enum and value not in shape.enum:
        nearest = difflib.get_close_matches(value, shape.enum, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"it takes {', '.join(shape.enum[:8])}, ..."
        yield f"{origin(path)} {value!r} is none of the {len(shape.enum)} that SageMaker knows; {advice}"
        return
    yield from size_problems(len(value), shape.metadata, path, "characters")
    pattern = shape.metadata.get("pattern", r"[\s\S]*")
    if not re.fullmatch(translated(pattern), value):
        yield f"{origin(path)} {value!r} is not of the form that SageMaker takes: {pattern}"


def size_problems(size: int, limits: dict[str, Any], path: str, unit: str) -> Iterator[str]:
    """What is wrong with a length, a count or a number."""
    lowest, highest = limits.get("min", 0), limits.get("max", float("inf"))
    if not lowest <= size <= highest:
        bound = f"at most {highest}" if size > highest else f"at least {lowest}"
        yield f"{origin(path)}: {size} {unit}".rstrip() + f"; SageMaker takes {bound}"


def origin(path: str) -> str:
    """A member of the request with the option that it comes from."""
    option = next((option for prefix, option in OPTIONS.items() if path.startswith(prefix)), None)
    return f"{option} ({path})" if option else path


def translated(pattern: str) -> str:
    """A pattern of the service model, which are Java's, for Python."""
    for java, python in JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    return pattern


def check_bucket(name: str) -> None:
    """Refuse what cannot be a bucket's name; the service model leaves it open."""
    if not BUCKET.fullmatch(name):
        raise ValueError(
            f"--bucket {name!r} is no bucket name: 3 to 63 lower-case letters, digits, dots and hyphens, without s3://"
        )


def check_no_secrets(values: dict[str, str], where: str) -> None:
    """Refuse values that look like credentials: a request is shown to everyone who may describe the job."""
    for name, value in values.items():
        if holds_secret(value):
            raise ValueError(
                f"{where} {name}: the value looks like a secret, and whoever may describe a job sees it; "
                "give the job's role what it needs instead"
            )


def check_environment(environment: dict[str, str]) -> None:
    """Refuse variables that are secrets by name or by look."""
    for name in environment:
        if SECRET_WORDS & set(name.lower().split("_")):
            raise ValueError(
                f"--environment {name} is a secret by its name, and whoever may describe a job sees it; "
                "give the job's role what it needs instead"
            )
    check_no_secrets(environment, "--environment")
