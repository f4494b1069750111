"""Loader workers use the files that the main process has downloaded, under all start methods."""

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
    """An S3 server with data for every task."""
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
def test_every_task_trains_the_same_under_all_start_methods_and_downloads_each_object_once(
    store: FakeS3, tmp_path: Path
) -> None:
    assert RUNS.keys() == TASKS.keys()
    weights = {}
    for method in METHODS:
        store.proxy.forget()
        folder = tmp_path / method
        run(sys.executable, "-m", "tests.helpers.remote_runs", method, folder)
        lines = [request.line for request in store.proxy.requests if request.range is None]
        pattern = r"GET (/lab/\S+\.(?:parquet|mp3)) "
        downloads = Counter(match[1] for line in lines if (match := re.match(pattern, line)))
        assert {name.split("/")[2] for name in downloads} == {"tunein", "sounds", "meld"}
        assert set(downloads.values()) == {1}, method
        weights[method] = {task: load_file(folder / f"{task}.safetensors") for task in RUNS}
    for task, expected in weights["fork"].items():
        for method in METHODS:
            assert expected.keys() == weights[method][task].keys()
            assert all(torch.equal(weights[method][task][name], expected[name]) for name in expected), (method, task)
