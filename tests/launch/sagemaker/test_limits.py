"""Errors that SageMaker would report after the upload are found before it."""

from collections.abc import Callable
from typing import Any

import pytest

from launch.sagemaker.limits import request_problems
from tests.helpers.sagemaker_jobs import metrics, request_of


@pytest.mark.parametrize(
    "more, part",
    [
        (["--job_name", "under_score"], "--job_name (TrainingJobName)='under_score': "),
        (["--job_name", "last-"], "--job_name (TrainingJobName)='last-': "),
        (["--job_name", "a" * 64], "--job_name (TrainingJobName): 64 characters"),
        (["--role", "arn:aws:iam::12:role/feltsound"], "--role (RoleArn)='arn:aws:iam::12:role/feltsound': "),
        (["--role", "feltsound"], "--role (RoleArn): 9 characters"),
        (["--bucket", "Lab"], "--bucket='Lab': "),
        (["--bucket", "s3://lab"], "--bucket='s3://lab': "),
        (["--bucket", "192.168.0.1"], "--bucket='192.168.0.1': "),
        (["--bucket", "ab"], "--bucket='ab': "),
        (["--instance_type", "ml.g5.large"], "'ml.g5.xlarge'?"),
        (["--instance_type", "g5.xlarge"], "'ml.g5.xlarge'?"),
        (["--image_uri", "i" * 256], "--image_uri (AlgorithmSpecification.TrainingImage): 256 characters"),
        (["--channel", "training"], "--channel 'training': "),
        (["--channel", "training=/data/pmemo"], "'/data/pmemo'"),
        (["--channel", "my data=s3://lab/x"], "--channel (InputDataConfig[0].ChannelName)='my data': "),
        (["--channel", f"{'c' * 65}=s3://lab/x"], "ChannelName): 65 characters"),
        (["--channel", "a=s3://lab/x", "--channel", "a=s3://lab/y"], "--channel a: "),
        ([w for i in range(21) for w in ("--channel", f"c{i}=s3://lab/x")], "(InputDataConfig): 21 entries"),
        (["--channel", "training=s3://lab/x", "--dataset", "s3://lab/y"], "--dataset: "),
        (["--spot", "--max_run", "100", "--max_wait", "99"], "--max_wait=99: "),
        (["--max_wait", "99"], "--max_wait=99: "),
        (["--spot", "--save_strategy", "no", "--load_best_model_at_end", "false"], "save_strategy='no': "),
        (["--max_run", "0"], "--max_run (StoppingCondition.MaxRuntimeInSeconds): 0"),
        (["--max_run", str(29 * 86400)], "--max_run=2505600: "),
        (["--retry_attempts", "31"], "(RetryStrategy.MaximumRetryAttempts): 31"),
        (["--subnets", "subnet-1"], "--security_group_ids (VpcConfig.SecurityGroupIds): 0 entries"),
        (["--security_group_ids", "sg-1"], "--subnets (VpcConfig.Subnets): 0 entries"),
        (["--subnets", "a b", "--security_group_ids", "sg-1"], "--subnets (VpcConfig.Subnets[0])='a b': "),
        (["--output_kms_key", "a key"], "--output_kms_key (OutputDataConfig.KmsKeyId)='a key': "),
        (["--volume_kms_key", "a key"], "--volume_kms_key (ResourceConfig.VolumeKmsKeyId)='a key': "),
        (["--checkpoints", "/here"], "--checkpoints (CheckpointConfig.S3Uri)='/here': "),
        (["--tag", "project"], "--tag 'project': "),
        (["--tag", "a;b=c"], "--tag (Tags[0].Key)='a;b': "),
        (["--environment", "1A=b"], "--environment (Environment (a name))='1A': "),
        (["--environment", f"A={'b' * 513}"], "(Environment[A]): 513 characters"),
        (["--environment", "HF_TOKEN=x"], "--environment HF_TOKEN: "),
        (["--environment", "AWS_SECRET_ACCESS_KEY=x"], "--environment AWS_SECRET_ACCESS_KEY: "),
        (["--environment", "WANDB_API_KEY=x"], "--environment WANDB_API_KEY: "),
        (["--environment", "NOTE=AKIAIOSFODNN7EXAMPLE"], "--environment NOTE: "),
        (["--environment", "NOTE=HFAKiosfodnn7"], "--environment NOTE: "),
        (["--environment", "PROXY=http://me:pass@proxy"], "--environment PROXY: "),
        (["--hub_token", "x"], "--hub_token: "),
        (["--run_name", "hf_" + "a" * 30], "setting run_name: "),
        (["--run_name", "n" * 2499], "settings of the run (HyperParameters[run_name]): 2501 characters"),
        (["--output_dir", "x"], "--output_dir: "),
        (["--resume_from_checkpoint", "true"], "--resume_from_checkpoint: "),
        (["--push_to_hub"], "--push_to_hub: "),
        (["--learning_ratte", "1e-3"], "'learning_rate'?"),
        (["--learning_rate", "fast"], "'fast'"),
        (["--max_rum", "9"], "--max_run?"),
        (["stray"], "'stray'"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_rejected_in_one_line(more: list[str], part: str) -> None:
    with pytest.raises((ValueError, SystemExit)) as error:
        request_of(*more)
    message = str(error.value)
    assert part in message
    assert "\n" not in message
    assert not any(secret in message for secret in ("AKIAIOSFODNN7EXAMPLE", "HFAKiosfodnn7", "me:pass"))


@pytest.mark.parametrize(
    "change, part",
    [
        (lambda r: r["HyperParameters"].update({f"k{i}": "1" for i in range(96)}), "101 entries"),
        (lambda r: r["HyperParameters"].update(k="v" * 2501), "[k]): 2501 characters"),
        (lambda r: metrics(r).extend(metrics(r)[:1] * 40), "entries, but SageMaker allows at most 40"),
        (lambda r: metrics(r)[0].update(Regex="x" * 501), "Regex: 501 characters"),
        (lambda r: r["InputDataConfig"].append(r["InputDataConfig"][0]), "--channel=training: "),
        (lambda r: r.pop("CheckpointConfig"), "--spot: "),
        (lambda r: r["StoppingCondition"].pop("MaxWaitTimeInSeconds"), "--max_wait=None: "),
    ],
)  # fmt: skip
def test_limits_of_members_and_of_their_combination_are_checked(change: Callable[[dict], Any], part: str) -> None:
    request = request_of("--spot", "--channel", "training=s3://lab/x")
    assert not list(request_problems(request))
    change(request)
    assert any(part in problem for problem in request_problems(request))


def test_a_hundred_hyperparameters_are_accepted() -> None:
    request = request_of()
    request["HyperParameters"].update({f"k{i}": "1" for i in range(95)})
    assert len(request["HyperParameters"]) == 100
    assert not list(request_problems(request))


@pytest.mark.parametrize("instance_type", ["ml.g5.xlarge", "ml.m5.large", "ml.p4d.24xlarge"])
def test_instance_types_of_aws_are_accepted(instance_type: str) -> None:
    request = request_of()
    request["ResourceConfig"]["InstanceType"] = instance_type
    assert not list(request_problems(request))
