"""Cached records are computed once, shared by processes, and identical after a kill and restart."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets.config
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from training.embeddings import PART_RECORDS, StoredRecords, WindowEmbeddings, array_digest, stored_records

RECORD = np.dtype([("served", np.int64), ("embeddings", np.float16, (2, 3))])
COUNT = 3 * PART_RECORDS + 5
# Writes the start of each part that it computes to a file. All parts but the first are slow.
PROGRAM = """
import sys, time
from pathlib import Path
import datasets.config
from tests.training.test_embeddings import COUNT, synthetic_records
from training.embeddings import stored_records

datasets.config.HF_DATASETS_CACHE = sys.argv[1]

def compute(places):
    with open(sys.argv[2], "a") as file:
        file.write(f"{places.start}\\n")
    time.sleep(float(sys.argv[3]) if places.start else 0)
    return synthetic_records(places)

stored_records("key", COUNT, compute)
"""


def synthetic_records(places: range) -> np.ndarray:
    records = np.zeros(len(places), RECORD)
    records["served"] = places
    records["embeddings"] = np.random.default_rng(places.start).normal(size=(len(places), 2, 3))
    return records


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def start(cache: Path, notes: Path, seconds: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, cache, notes, str(seconds)], cwd=REPOSITORY)


def parts(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "embeddings" / "key").iterdir())}


def test_records_are_computed_once_and_read_by_index(cache: Path) -> None:
    computed: list[range] = []

    def compute(places: range) -> np.ndarray:
        computed.append(places)
        return synthetic_records(places)

    for _ in range(2):
        records = stored_records("key", COUNT, compute)
    assert [place for places in computed for place in places] == list(range(COUNT))
    assert len(records) == COUNT
    expected = np.concatenate([synthetic_records(places) for places in computed])
    for place in (0, PART_RECORDS - 1, PART_RECORDS, COUNT - 1):
        assert records[place] == expected[place]
    assert np.array_equal(records.column("embeddings"), expected["embeddings"])
    with pytest.raises(IndexError):
        records[COUNT]
    assert sorted(parts(cache)) == [f"part-0000{number}.npy" for number in range(4)]


def test_a_failed_part_leaves_no_file(cache: Path) -> None:
    def compute(places: range) -> np.ndarray:
        if places.start:
            raise ValueError("no sound")
        return synthetic_records(places)

    with pytest.raises(ValueError, match="no sound"):
        stored_records("key", COUNT, compute)
    assert [name for name in parts(cache) if name.endswith(".npy")] == ["part-00000.npy"]


def test_the_seed_selects_the_view_of_an_item(cache: Path) -> None:
    embeddings = WindowEmbeddings(stored_records("key", 40, synthetic_records), views=4)
    for item, seed in ((0, 0), (3, 5), (9, 2**63 - 1)):
        assert embeddings.of(item, seed)[1] == 4 * item + seed % 4


def test_digests_depend_on_type_shape_values_and_order() -> None:
    arrays = [np.arange(4), np.arange(4.0), np.arange(4).reshape(2, 2), np.arange(1, 5)]
    assert len({array_digest(array) for array in arrays}) == 4
    assert array_digest(arrays[0], arrays[1]) != array_digest(arrays[1], arrays[0])


@pytest.mark.slow
def test_records_are_identical_after_a_kill_and_restart(tmp_path: Path) -> None:
    notes = tmp_path / "killed.txt"
    killed = start(tmp_path / "killed", notes, 600)
    while killed.poll() is None and not (notes.exists() and len(notes.read_text().split()) == 2):
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert [name for name in parts(tmp_path / "killed") if name.endswith(".npy")] == ["part-00000.npy"]
    assert start(tmp_path / "whole", tmp_path / "whole.txt", 0).wait(600) == 0
    assert start(tmp_path / "killed", tmp_path / "resumed.txt", 0).wait(600) == 0
    assert parts(tmp_path / "killed") == parts(tmp_path / "whole")
    assert (tmp_path / "resumed.txt").read_text().split() == [str(n * PART_RECORDS) for n in (1, 2, 3)]


@pytest.mark.slow
def test_two_processes_share_the_parts(tmp_path: Path) -> None:
    both = [start(tmp_path / "cache", tmp_path / f"{name}.txt", 1.0) for name in "ab"]
    assert [process.wait(600) for process in both] == [0, 0]
    computed = [(tmp_path / f"{name}.txt").read_text().split() for name in "ab" if (tmp_path / f"{name}.txt").exists()]
    starts = [str(first) for first in range(0, COUNT, PART_RECORDS)]
    assert sorted((first for each in computed for first in each), key=int) == starts
    records = StoredRecords(tmp_path / "cache" / "embeddings" / "key", COUNT)
    assert np.array_equal(records.column("served"), np.arange(COUNT))
