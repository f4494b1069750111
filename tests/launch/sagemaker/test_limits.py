"""A request that SageMaker would refuse is refused here."""

from collections.abc import Callable
from typing import Any

import pytest

from launch.sagemaker.limits import request_problems
from tests.helpers.sagemaker_jobs import metrics, request_of


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
        (["--environment", "NOTE=HFAKiosfodnn7"], "--environment NOTE: the value looks like a secret"),
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
