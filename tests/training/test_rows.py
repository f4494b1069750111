"""Loading rows and file digests: changed S3 objects, damaged local copies, and the Hub offline."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from accelerate import PartialState

from system.storage import S3FileManager
from tests.conftest import REPOSITORY
from tests.helpers.hub_server import Repository, Stored, serve_hub
from tests.helpers.s3_server import FakeS3, serve_s3
from training.checkpoints import sha256_of
from training.rows import load_rows
from training.settings import RunArguments

PREFIX, OBJECT = "s3://lab/songs", "s3://lab/songs/data/train-00000-of-00001.parquet"
LOAD = """
import json
from training.rows import load_rows
from training.settings import RunArguments

rows, record = load_rows(RunArguments(dataset="tester/songs"), ("song",))
print(json.dumps([rows["song"][:], record.files]))
"""


def parquet(*songs: str) -> bytes:
    """Return a Parquet file whose size depends only on the lengths of the song names."""
    file = io.BytesIO()
    table = pa.table({"song": list(songs), "synthetic": [False] * len(songs)})
    pq.write_table(table, file, compression="none", use_dictionary=False)
    return file.getvalue()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeS3]:
    """An S3 server with a prepared data set, and an empty local cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files = [{"split": "train", "path": "data/train-*.parquet"}]
    configs = [{"config_name": "full", "default": True, "data_files": files}]
    with serve_s3() as server:
        restart(monkeypatch)
        server.put(f"{PREFIX}/.huggingface.yaml", yaml.safe_dump({"configs": configs}).encode())
        yield server
        restart(monkeypatch)


def restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close the file manager, as if the program was started again."""
    if live := S3FileManager.live():
        live.close()
    monkeypatch.setattr(S3FileManager, "_shared", None)


def songs_and_digest() -> tuple[list[str], str]:
    """Return the rows that a run trains on, and the digest that it records."""
    rows, record = load_rows(RunArguments(dataset=PREFIX), ("song",))
    (digest,) = record.files.values()
    return rows["song"][:], digest


def test_an_object_replaced_by_one_of_the_same_size_is_read_again(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for song in ("aaaa", "bbbb", "aaaa"):
        content = parquet(song)
        assert len(content) == len(parquet("aaaa"))
        etag = s3.put(OBJECT, content)
        restart(monkeypatch)
        assert songs_and_digest() == ([song], etag)
    assert s3.proxy.count("^GET .*parquet") == 2  # the first content is still in the cache


@pytest.mark.parametrize("later", [False, True])
def test_a_damaged_copy_of_unchanged_size_is_downloaded_again(
    later: bool, s3: FakeS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both if the modification time shows the damage, and if it happened unnoticed before `datasets` read the copy."""
    etag = s3.put(OBJECT, parquet("aaaa"))
    assert songs_and_digest() == (["aaaa"], etag)
    (copy,) = (tmp_path / "cache" / "s3").rglob("*.parquet")
    before = copy.stat()
    copy.write_bytes(parquet("bbbb"))
    if later:
        os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    else:
        os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
        for cached in (tmp_path / "cache" / "parquet").iterdir():
            cached.rename(tmp_path / f"forgotten-{cached.name}")
    restart(monkeypatch)
    with caplog.at_level(logging.WARNING, "training.rows"):
        assert songs_and_digest() == (["aaaa"], etag)
    assert [record.getMessage() for record in caplog.records if str(copy) in record.getMessage()]
    assert copy.read_bytes() == parquet("aaaa")
    assert s3.proxy.count("^GET .*parquet") == 2


def test_file_digests_are_computed_only_where_they_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "train.parquet").write_bytes(parquet("aaaa"))
    arguments = RunArguments(dataset=str(tmp_path / "songs"))
    assert list(load_rows(arguments, ("song",))[1].files) == ["train.parquet"]
    assert load_rows(arguments, ("song",), recorded=False)[1].files == {}
    monkeypatch.setattr(PartialState(), "process_index", 1)
    rows, record = load_rows(arguments, ("song",))
    assert rows["song"][:] == ["aaaa"]
    assert record.files == {}


@pytest.mark.slow
def test_a_downloaded_hub_data_set_loads_offline(tmp_path: Path) -> None:
    card = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": "data/train-*.parquet"}]})
    files = {
        "README.md": Stored(f"---\n{card}---\n".encode()),
        "data/train-00000-of-00001.parquet": Stored(parquet("aaaa", "bbbb")),
    }
    results = []
    with serve_hub() as hub:
        repository = hub.repositories["datasets", "tester/songs"] = Repository()
        repository.add(files)
        for offline in ("0", "1"):
            environment = os.environ | hub.environment(tmp_path) | {"HF_HUB_OFFLINE": offline}
            command = [sys.executable, "-c", LOAD]
            done = subprocess.run(
                command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, done.stderr[-3000:]
            results.append(json.loads(done.stdout))
    online, offline = results
    parquet_file = "train-00000-of-00001.parquet"
    assert online == [["aaaa", "bbbb"], {parquet_file: files[f"data/{parquet_file}"].oid}]
    assert offline[0] == ["aaaa", "bbbb"]
    (cached,) = tmp_path.rglob("*.arrow")
    assert offline[1] == {cached.name: sha256_of(cached)}
