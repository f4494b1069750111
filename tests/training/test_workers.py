"""Workers that read items use the remote files of the main process, however they start."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file

from tasks import TASKS
from tests.helpers.attention_rows import make_rows
from tests.helpers.programs import run
from tests.helpers.remote_runs import RUNS, sound_url, upload
from tests.helpers.s3_server import FakeS3, serve_s3

METHODS = ("fork", "forkserver", "spawn")


@pytest.fixture(scope="module")
def store() -> Iterator[FakeS3]:
    """The data of every task."""
    creatives = make_rows(96)
    sample = {name: datasets.load_dataset(f"hf_datasets/{name}", "sample") for name in ("audioset", "meld")}
    utterances = {split: rows.select(range(24)) for split, rows in sample["meld"].items()}
    with serve_s3() as s3:
        upload(s3, RUNS["attention"][0], {"train": [creatives.shard(4, i, contiguous=True) for i in range(4)]}, 12)
        upload(s3, RUNS["emotion"][0], {name: [rows] for name, rows in utterances.items()}, 12)
        for rows in sample["audioset"].values():
            for clip, sound in zip(rows["clip_id"], rows["audio"], strict=True):
                if sound:
                    s3.put(sound_url(clip), sound["bytes"])
        yield s3


@pytest.mark.slow
def test_every_task_trains_alike_under_all_start_methods_and_fetches_each_object_once(
    store: FakeS3, tmp_path: Path
) -> None:
    assert RUNS.keys() == TASKS.keys()
    weights = {}
    for method in METHODS:
        store.proxy.forget()
        folder = tmp_path / method
        run(sys.executable, "-m", "tests.helpers.remote_runs", method, folder)
        whole = [request.line for request in store.proxy.requests if request.range is None]
        fetched = Counter(found[1] for line in whole if (found := re.match(r"GET (/lab/\S+\.(?:parquet|mp3)) ", line)))
        assert {name.split("/")[2] for name in fetched} == {"tunein", "sounds", "meld"}
        assert set(fetched.values()) == {1}, method
        weights[method] = {task: load_file(folder / f"{task}.safetensors") for task in RUNS}
    for task, expected in weights["fork"].items():
        for method in METHODS:
            assert expected.keys() == weights[method][task].keys()
            assert all(torch.equal(weights[method][task][name], expected[name]) for name in expected), (method, task)
