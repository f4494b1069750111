"""Prepared trees of TuneIn, and a store."""

from pathlib import Path

import pytest

from hf_datasets.tunein.synthesize import synthesize
from system.storage import S3FileManager
from tests.helpers.raw_trees.tunein import WIDTH, prepare, small_tree
from tests.helpers.s3_server import serve_s3


@pytest.fixture(scope="package")
def built(tmp_path_factory) -> Path:
    """The prepared small tree."""
    folder = tmp_path_factory.mktemp("tunein")
    prepare(small_tree().write(folder / "raw"), folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="package")
def damaged(tmp_path_factory) -> Path:
    """A prepared tree with every kind of defect, of 300 creatives."""
    folder = tmp_path_factory.mktemp("damaged")
    synthesize(folder / "raw", num_creatives=300, seed=1, sound_width=WIDTH)
    prepare(folder / "raw", folder / "prepared")
    return folder / "prepared"


@pytest.fixture
def s3(monkeypatch):
    with serve_s3() as server:
        monkeypatch.setattr(S3FileManager, "_shared", None)
        yield server
        if S3FileManager.live():
            S3FileManager.live().close()
