"""Prepared trees of TuneIn, an S3 server, and a reader of pickles."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hf_datasets.tunein.pickles import map_numbers, unpickle_columns
from hf_datasets.tunein.synthesize import synthesize
from system.storage import S3FileManager
from tests.helpers.raw_trees.tunein import WIDTH, prepare, small_tree
from tests.helpers.s3_server import serve_s3


@pytest.fixture(scope="package")
def built(tmp_path_factory) -> Path:
    """Return the folder of the prepared small tree."""
    folder = tmp_path_factory.mktemp("tunein")
    prepare(small_tree().write(folder / "raw"), folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="package")
def damaged(tmp_path_factory) -> Path:
    """Return the folder of a prepared tree of 300 creatives with every kind of defect."""
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


@pytest.fixture
def read(tmp_path) -> Callable[[bytes], tuple[list[str], list[np.ndarray | str]]]:
    """Return a function that reads the ids and entries of a pickle {"id": ..., "e": ...} in the child process.

    An entry is its numbers (frames, width) or the kind of its defect.
    """

    def read(data: bytes, name: str = "x.pkl") -> tuple[list[str], list[np.ndarray | str]]:
        (tmp_path / "x.pkl").write_bytes(data)
        ids, columns = unpickle_columns(tmp_path / "x.pkl", name, "id", {"e": tmp_path / "e.npy"})
        numbers = map_numbers(tmp_path / "e.npy")
        return ids, [e.what or e.numbers(numbers).reshape(e.frames, e.width) for e in columns["e"]]

    return read
