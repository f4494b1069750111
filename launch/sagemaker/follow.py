"""A job on its way: code uploaded, request sent, status and logs followed, the model fetched."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from launch.sagemaker.archive import Code, unpack_model
from launch.sagemaker.job import Job, code_url
from system.storage import parse_s3_url

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
ENDED = ("Completed", "Failed", "Stopped")
PAUSE = 15.0  # s between two looks at a job
HINTS = {
    "ResourceLimitExceeded": "; ask for more under Service Quotas, Amazon SageMaker, '<type> for training job usage'",
    "ResourceInUse": "; names are used once: give another --job_name",
}


@dataclass
class Clients:
    """The three services that a job needs."""

    sagemaker: Any
    s3: Any
    logs: Any


@dataclass
class LogReader:
    """Reads each stream of a job's log from where it stopped."""

    logs: Any
    job: str
    positions: dict[str, str] = field(default_factory=dict)  # token of what follows, by stream

    def new_lines(self) -> Iterator[str]:
        """All lines that have come since; none while there is no log yet."""
        for stream in self._streams():
            while True:
                token = {"nextToken": self.positions[stream]} if stream in self.positions else {}
                answer = self.logs.get_log_events(
                    logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, **token
                )
                yield from (event["message"] for event in answer["events"])
                before, self.positions[stream] = self.positions.get(stream), answer["nextForwardToken"]
                if not answer["events"] or before == answer["nextForwardToken"]:
                    break

    def _streams(self) -> list[str]:
        pages = self.logs.get_paginator("describe_log_streams")
        try:
            found = [
                stream["logStreamName"]
                for page in pages.paginate(logGroupName=LOG_GROUP, logStreamNamePrefix=f"{self.job}/")
                for stream in page["logStreams"]
            ]
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        return sorted(found)


@contextlib.contextmanager
def one_line_aws_errors() -> Iterator[None]:
    """AWS's refusals as errors of ours, with what to do where it is known."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise ValueError(f"AWS refused: {error}{HINTS.get(code, '')}") from error
    except BotoCoreError as error:
        raise ValueError(f"AWS: {error}") from error


def connect(region: str) -> Clients:
    """Clients with the credentials of AWS's own chain."""
    try:
        from boto3.session import Session
    except ImportError as error:
        raise ImportError("boto3 is missing: pip install -e '.[sagemaker]'") from error
    session = Session(region_name=region)
    config = Config(retries={"mode": "standard", "max_attempts": 8})
    return Clients(*(session.client(service, config=config) for service in ("sagemaker", "s3", "logs")))


def check_places(clients: Clients, job: Job) -> None:
    """Refuse a bucket that is not there or in another region, and channels with nothing in them."""
    bucket = job.options.bucket
    try:
        found = clients.s3.head_bucket(Bucket=bucket).get("BucketRegion")
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
            raise ValueError(f"--bucket {bucket}: there is no such bucket; create it in {job.region}") from error
        raise
    if found and found != job.region:
        raise ValueError(f"--bucket {bucket} is in {found}, the job in {job.region}; a job's bucket is in its region")
    for name, url in job.channels.items():
        place, key = parse_s3_url(f"{url.rstrip('/')}/")
        try:
            count = clients.s3.list_objects_v2(Bucket=place, Prefix=key, MaxKeys=1)["KeyCount"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "AccessDenied":
                continue  # the role may read what its user may not
            raise ValueError(f"--channel {name}: {url}: {error}") from error
        if not count:
            raise ValueError(f"--channel {name}: nothing lies below {url.rstrip('/')}/")


def upload_code(clients: Clients, job: Job, code: Code) -> bool:
    """Put the code in the bucket; False where it lies there already."""
    bucket, key = parse_s3_url(code_url(job, code))
    try:
        clients.s3.head_object(Bucket=bucket, Key=key)
        return False
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise
    kms = job.options.output_kms_key
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms} if kms else {}
    clients.s3.put_object(Bucket=bucket, Key=key, Body=code.content, ContentType="application/gzip", **encryption)
    return True


def submit(clients: Clients, job: Job, code: Code, request: dict[str, Any]) -> str:
    """Check what only AWS knows, upload, and start the job; its ARN."""
    with one_line_aws_errors():
        check_places(clients, job)
        upload_code(clients, job, code)
        return clients.sagemaker.create_training_job(**request)["TrainingJobArn"]


def follow(clients: Clients, name: str) -> dict[str, Any]:
    """Print status and log lines as they come, until the job has ended; its last description."""
    reader, seen = LogReader(clients.logs, name), None
    with one_line_aws_errors():
        while True:
            found = clients.sagemaker.describe_training_job(TrainingJobName=name)
            status = f"{found['TrainingJobStatus']}: {found.get('SecondaryStatus', '')}"
            if status != seen:
                print(f"{name} {status}")
                seen = status
            ended = found["TrainingJobStatus"] in ENDED
            if ended:
                time.sleep(PAUSE)  # the last lines reach the log later than the status changes
            for line in reader.new_lines():
                print(line)
            if ended:
                return found
            time.sleep(PAUSE)


def fetch_model(clients: Clients, job: Job, found: dict[str, Any]) -> Path:
    """Download and unpack the model of a job that ended well; the end of another is an error with its reason."""
    if found["TrainingJobStatus"] != "Completed":
        why = found.get("FailureReason") or found.get("SecondaryStatus", "no reason given")
        raise ValueError(f"{job.name} {found['TrainingJobStatus'].lower()}: {why}")
    folder = Path(job.options.download_to or Path("outputs") / job.name)
    url = found["ModelArtifacts"]["S3ModelArtifacts"]
    bucket, key = parse_s3_url(url)
    with tempfile.TemporaryDirectory() as name, one_line_aws_errors():
        archive = Path(name) / "model.tar.gz"
        clients.s3.download_file(bucket, key, str(archive))
        unpack_model(archive, folder)
    return folder
