"""Fixtures: the packed code of a job, and a local AWS."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.sagemaker import follow as sagemaker_follow
from launch.sagemaker.archive import Code, pack_code
from tests.conftest import REPOSITORY
from tests.helpers.s3_server import FakeS3, serve_s3


@pytest.fixture(scope="module")
def code() -> Code:
    return pack_code(REPOSITORY)


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """A local AWS with the bucket `lab`."""
    monkeypatch.chdir(tmp_path)  # moto writes its recording of requests to the working directory
    monkeypatch.setattr(sagemaker_follow, "PAUSE", 0.01)
    with serve_s3() as s3:
        s3.boto.create_bucket(Bucket="lab")
        yield s3
