"""Start a job, follow its status and logs, and download its model."""

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
PAUSE = 15.0  # s between two requests for the status of a job
# Remedies by AWS error code.
HINTS = {
    "ResourceLimitExceeded": ". Request a higher quota: Service Quotas, Amazon SageMaker, "
    "'<type> for training job usage'.",
    "ResourceInUse": ". A name can be used only once. Give another --job_name.",
}


@dataclass
class Clients:
    """The clients of the three AWS services that a job needs."""

    sagemaker: Any
    s3: Any
    logs: Any


@dataclass
class LogReader:
    """Reads the log of a job incrementally. Each machine of the job has its own log stream."""

    logs: Any
    job: str
    positions: dict[str, str] = field(default_factory=dict)  # stream -> token of its next page

    def new_lines(self) -> Iterator[str]:
        """Yield the lines since the last call."""
        for stream in self._streams():
            while True:
                token = {"nextToken": self.positions[stream]} if stream in self.positions else {}
                answer = self.logs.get_log_events(
                    logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, **token
                )
                yield from (event["message"] for event in answer["events"])
                # CloudWatch returns the same token again at the end of a stream. A page before it may be empty.
                before, self.positions[stream] = self.positions.get(stream), answer["nextForwardToken"]
                if not answer["events"] or before == answer["nextForwardToken"]:
                    break

    def _streams(self) -> list[str]:
        pages = self.logs.get_paginator("describe_log_streams")
        try:
            names = [
                stream["logStreamName"]
                for page in pages.paginate(logGroupName=LOG_GROUP, logStreamNamePrefix=f"{self.job}/")
                for stream in page["logStreams"]
            ]
        except self.logs.exceptions.ResourceNotFoundException:  # the log group is created with the first job
            return []
        return sorted(names)


@contextlib.contextmanager
def one_line_aws_errors() -> Iterator[None]:
    """Convert errors of AWS to ValueError, with a remedy if there is one in HINTS."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise ValueError(f"AWS rejected the request: {str(error).rstrip('.')}{HINTS.get(code, '')}") from error
    except BotoCoreError as error:
        raise ValueError(f"AWS: {error}") from error


def connect(region: str) -> Clients:
    """Create clients with the default AWS credentials."""
    try:
        from boto3.session import Session
    except ImportError as error:
        raise ImportError("boto3 is not installed. Run `pip install -e '.[sagemaker]'`.") from error
    session = Session(region_name=region)
    # More attempts than by default: AWS limits the rate of requests, and a job is followed for hours.
    config = Config(retries={"mode": "standard", "max_attempts": 8})
    return Clients(*(session.client(service, config=config) for service in ("sagemaker", "s3", "logs")))


def check_places(clients: Clients, job: Job) -> None:
    """Raise ValueError if the bucket is missing or in another region, or if a channel is empty."""
    bucket = job.options.bucket
    try:
        region = clients.s3.head_bucket(Bucket=bucket).get("BucketRegion")
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
            raise ValueError(f"--bucket={bucket}: bucket not found. Create it in {job.region}.") from error
        raise
    if region and region != job.region:
        raise ValueError(
            f"--bucket={bucket}: is in {region}, but the job is in {job.region}. Use a bucket in the same region."
        )
    for name, url in job.channels.items():
        channel_bucket, key = parse_s3_url(f"{url.rstrip('/')}/")
        try:
            count = clients.s3.list_objects_v2(Bucket=channel_bucket, Prefix=key, MaxKeys=1)["KeyCount"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "AccessDenied":
                continue  # the role of the job may be allowed to read it although the user is not
            raise ValueError(f"--channel={name}: {url}: {error}") from error
        if not count:
            raise ValueError(f"--channel={name}: {url.rstrip('/')}/ is empty. Upload the data first.")


def upload_code(clients: Clients, job: Job, code: Code) -> bool:
    """Upload the code; return False if the bucket already has it."""
    bucket, key = parse_s3_url(code_url(job, code))
    try:
        clients.s3.head_object(Bucket=bucket, Key=key)
        return False
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise
    # The code is encrypted with the same key as the model, because it can be as confidential.
    kms = job.options.output_kms_key
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms} if kms else {}
    clients.s3.put_object(Bucket=bucket, Key=key, Body=code.content, ContentType="application/gzip", **encryption)
    return True


def submit(clients: Clients, job: Job, code: Code, request: dict[str, Any]) -> str:
    """Check the bucket and channels, upload the code, and start the job; return its ARN."""
    with one_line_aws_errors():
        check_places(clients, job)
        upload_code(clients, job, code)
        return clients.sagemaker.create_training_job(**request)["TrainingJobArn"]


def follow(clients: Clients, name: str) -> dict[str, Any]:
    """Print status changes and log lines until the job has ended; return its last description."""
    reader, seen = LogReader(clients.logs, name), None
    with one_line_aws_errors():
        while True:
            description = clients.sagemaker.describe_training_job(TrainingJobName=name)
            status = f"{description['TrainingJobStatus']}: {description.get('SecondaryStatus', '')}"
            if status != seen:
                print(f"{name} {status}")
                seen = status
            ended = description["TrainingJobStatus"] in ENDED
            if ended:
                time.sleep(PAUSE)  # the last log lines arrive later than the change of the status
            for line in reader.new_lines():
                print(line)
            if ended:
                return description
            time.sleep(PAUSE)


def fetch_model(clients: Clients, job: Job, description: dict[str, Any]) -> Path:
    """Download and unpack the model of a finished job; return its folder. Raises ValueError if the job failed.

    Args:
        description: the last description of the job, from `follow`.
    """
    if description["TrainingJobStatus"] != "Completed":
        reason = description.get("FailureReason") or description.get("SecondaryStatus", "no reason given")
        raise ValueError(f"{job.name}: {description['TrainingJobStatus'].lower()}: {reason}")
    folder = Path(job.options.download_to or Path("outputs") / job.name)
    url = description["ModelArtifacts"]["S3ModelArtifacts"]
    bucket, key = parse_s3_url(url)
    with tempfile.TemporaryDirectory() as name, one_line_aws_errors():
        archive = Path(name) / "model.tar.gz"
        clients.s3.download_file(bucket, key, str(archive))
        unpack_model(archive, folder)
    return folder
