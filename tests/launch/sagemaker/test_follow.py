"""Starting and following a job and downloading its model, over HTTP with moto as AWS."""

import base64
import dataclasses
import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import run_sagemaker
from launch.sagemaker import follow as sagemaker_follow
from launch.sagemaker.archive import Code
from launch.sagemaker.follow import connect, fetch_model, follow
from launch.sagemaker.job import parse_job
from tests.helpers.s3_server import FakeS3, Rule, Status
from tests.helpers.sagemaker_jobs import TRAIN_LINE, archive_of, member, words


def recorder(s3: FakeS3, action: str) -> bytes:
    """Call moto's recorder."""
    verb = "GET" if action == "download-recording" else "POST"
    url = f"{s3.boto.meta.endpoint_url}/moto-api/recorder/{action}"
    with urllib.request.urlopen(urllib.request.Request(url, method=verb)) as answer:
        return answer.read()


def sent_to_sagemaker(s3: FakeS3, action: str) -> list[dict[str, Any]]:
    """Return the bodies of all recorded requests for an action."""
    entries = [json.loads(line) for line in recorder(s3, "download-recording").splitlines()]
    entries = [e for e in entries if e["headers"].get("X-Amz-Target", "").endswith(f".{action}")]
    return [json.loads(base64.b64decode(e["body"]) if e["body_encoded"] else e["body"]) for e in entries]


def test_the_sent_request_equals_the_printed_one_and_code_is_uploaded_once(
    aws: FakeS3, code: Code, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.put("s3://lab/prepared/pmemo/README.md", b"card")
    more = ["--channel", "training=s3://lab/prepared/pmemo", "--environment", "A=b", "--spot", "--tag", "who=us"]
    run_sagemaker.main(words("--dry_run", *more))
    printed = json.loads(capsys.readouterr().out)
    assert not aws.proxy.count()
    recorder(aws, "reset-recording")
    recorder(aws, "start-recording")
    run_sagemaker.main(words(*more))
    recorder(aws, "stop-recording")
    assert sent_to_sagemaker(aws, "CreateTrainingJob") == [printed]
    assert "started: arn:aws:sagemaker:us-east-1:" in capsys.readouterr().out
    uploads = r"^PUT /lab/feltsound/code/"
    assert aws.proxy.count(uploads) == 1
    run_sagemaker.main(words(*more, job_name="another"))
    assert aws.proxy.count(uploads) == 1
    key = f"feltsound/code/{code.sha256}/source.tar.gz"
    assert aws.boto.get_object(Bucket="lab", Key=key)["Body"].read() == code.content


@pytest.mark.parametrize(
    "more, parts",
    [
        (["--bucket", "nobody-has-this"], ["--bucket=nobody-has-this: ", "us-east-1"]),
        (["--channel", "training=s3://lab/none"], ["--channel=training: ", "s3://lab/none/"]),
        # There is s3://lab/data2/, whose name begins with the prefix.
        (["--channel", "training=s3://lab/data"], ["--channel=training: ", "s3://lab/data/"]),
        (["--region", "eu-west-1"], ["--bucket=lab: ", "us-east-1", "eu-west-1"]),
    ],
)
def test_nothing_is_uploaded_for_a_job_that_would_fail(more: list[str], parts: list[str], aws: FakeS3) -> None:
    aws.put("s3://lab/data2/x", b"x")
    with pytest.raises(ValueError, match=".*".join(map(re.escape, parts))):
        run_sagemaker.main(words(*more))
    assert not aws.proxy.count("^PUT ")
    assert not aws.proxy.count("^POST ")


def test_an_error_of_aws_is_one_line(aws: FakeS3) -> None:
    aws.proxy.rules.append(Rule("^HEAD /lab/feltsound/", Status(403)))
    with pytest.raises(ValueError, match="^AWS [^\n]*403[^\n]*HeadObject[^\n]*$"):
        run_sagemaker.main(words())


def test_waiting_prints_status_and_logs_and_downloads_the_model(
    aws: FakeS3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = connect("us-east-1").logs
    logs.create_log_group(logGroupName=sagemaker_follow.LOG_GROUP)
    now = int(time.time() * 1000)
    for stream, lines in {
        "a-job/algo-1-1": ["first", TRAIN_LINE],
        "a-job/algo-2-1": ["second"],
        "a-job-2/algo-1-1": ["other job"],
    }.items():
        logs.create_log_stream(logGroupName=sagemaker_follow.LOG_GROUP, logStreamName=stream)
        events = [{"timestamp": now + i, "message": line} for i, line in enumerate(lines)]
        logs.put_log_events(logGroupName=sagemaker_follow.LOG_GROUP, logStreamName=stream, logEvents=events)
    archive = archive_of(tmp_path / "model.tar.gz", (member("metrics.json"), b"{}"))
    aws.put("s3://lab/feltsound/jobs/a-job/output/model.tar.gz", archive.read_bytes())
    run_sagemaker.main(words("--wait"))
    out = capsys.readouterr().out
    assert "a-job Completed: " in out
    assert out.index("first\n") < out.index(TRAIN_LINE) < out.index("second\n")
    assert out.count("first") == 1
    assert "other job" not in out
    assert "outputs/a-job" in out
    assert (tmp_path / "outputs/a-job/metrics.json").read_text() == "{}"


def test_each_change_of_status_is_printed_until_the_job_ends(aws: FakeS3, capsys: pytest.CaptureFixture[str]) -> None:
    clients = connect("us-east-1")
    steps = iter(["InProgress: Starting", "InProgress: Starting", "InProgress: Training", "Failed: Failed"])

    class Descriptions:  # in place of moto, whose jobs end at once
        @staticmethod
        def describe_training_job(TrainingJobName: str) -> dict[str, str]:
            status, _, secondary = next(steps).partition(": ")
            return {
                "TrainingJobStatus": status,
                "SecondaryStatus": secondary,
                "FailureReason": "exit status 1: no GPU",
            }

    description = follow(dataclasses.replace(clients, sagemaker=Descriptions()), "a-job")
    assert capsys.readouterr().out.splitlines() == [
        "a-job InProgress: Starting",
        "a-job InProgress: Training",
        "a-job Failed: Failed",
    ]
    with pytest.raises(ValueError, match="^a-job: failed: exit status 1: no GPU$"):
        fetch_model(clients, parse_job(words()), description)
