"""Raw corpora and prepared data on S3: the same bytes as in a folder, also after a kill, and one request per file."""

import importlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import datasets
import pytest
import yaml

from hf_datasets.builders import builder_class
from hf_datasets.names import HERE, data_set_names
from hf_datasets.output import open_location
from hf_datasets.prepare import main
from system.storage import S3FileManager
from tests.helpers.prepared_data import complaint, contents
from tests.helpers.s3_server import Rule, Status, serve_s3

SMALLER = {  # options for less than the committed sample
    "audioset": {"num_train": 40, "num_eval": 10, "suffix": ".wav"},
    "meld": {"num_train": 48, "num_dev": 8, "num_test": 12},
}
over_data_sets = pytest.mark.parametrize("name", data_set_names())


@pytest.fixture(scope="module")
def server():
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(server, monkeypatch):
    """Empty the store, and close the shared file manager after the test."""
    server.proxy.rules.clear()
    server.proxy.latency = 0
    server.reset()
    server.proxy.forget()
    monkeypatch.setattr(S3FileManager, "_shared", None)
    forkserver._forkserver._stop()  # an older one would give workers the environment of another test
    yield server
    if S3FileManager.live():
        S3FileManager.live().close()


def raw_tree(name: str, folder: Path) -> Path:
    synthesize = importlib.import_module(f"hf_datasets.{name}.synthesize")
    synthesize.synthesize(folder, **synthesize.SAMPLES["sample"] | SMALLER.get(name, {}))
    return folder


def embed_options(name: str) -> list[str]:
    """Return the options that store sounds or clips in the rows; paths to them would differ between folder and S3."""
    parameters = inspect.signature(builder_class(name).__init__).parameters
    return [f"--{option}" for option in ("embed_audio", "embed_clips") if option in parameters]


@over_data_sets
def test_raw_and_prepared_data_on_s3_have_the_same_bytes_as_in_folders(name, s3, tmp_path):
    raw = raw_tree(name, tmp_path / "raw")
    embed = embed_options(name)
    main([name, "--raw_dir", str(raw), "--output_dir", str(tmp_path / "local"), *embed])
    files = s3.put_folder(raw, "s3://corpora/1. raw")
    s3.proxy.forget()
    from_s3 = ["--raw_dir", "s3://corpora/1. raw", "--output_dir", str(tmp_path / "from_s3"), "--num_proc", "2"]
    main([name, *from_s3, *embed])
    assert contents(tmp_path / "from_s3") == contents(tmp_path / "local")
    reads = [request.line for request in s3.proxy.requests if "list-type" not in request.line]
    assert len(reads) == len(set(reads)) <= files
    assert all(line.startswith("GET ") for line in reads)
    main([name, "--raw_dir", "s3://corpora/1. raw/", "--output_dir", "s3://corpora/prepared", *embed])
    assert s3.contents("s3://corpora/prepared") == contents(tmp_path / "local")


@pytest.mark.parametrize("raw_on_s3", [False, True])
def test_sounds_of_hku956_are_read_from_their_links(raw_on_s3: bool, s3, tmp_path: Path) -> None:
    """Read links to S3, full paths and relative paths; list songs with a web address or without a file as missing."""
    synthesize = importlib.import_module("hf_datasets.hku956.synthesize").synthesize
    synthesize(tmp_path, num_songs=5, seconds=(15.0, 16.0), defects="none")
    tree = tmp_path / "HKU956"
    songs = {path.stem: path.read_bytes() for path in sorted((tree / "audio").iterdir())}
    shutil.rmtree(tree / "audio")
    on_s3, full, relative, web, missing = songs
    targets = "s3://songs/a/1.mp3", str(tmp_path / "2.mp3"), "sounds/3.mp3", "https://x.org/4", "s3://songs/5.mp3"
    links = dict(zip(songs, targets, strict=True))
    s3.put(links[on_s3], songs[on_s3])
    (tree / "sounds").mkdir()
    for name in (full, relative):
        (tree / links[name]).write_bytes(songs[name])
    table = "".join(f"{name},{link}\n" for name, link in links.items())
    (tree / "2. original_song_audio.csv").write_text(f"song_id,link\n{table}")
    raw = tree
    if raw_on_s3:
        s3.put_folder(tree, "s3://corpora/raw")
        raw = "s3://corpora/raw"
    main(["hku956", "--raw_dir", str(raw), "--output_dir", str(tmp_path / "out")])
    rows = {row["song_id"]: row for row in datasets.load_dataset(str(tmp_path / "out"), split="train")}
    sounds = {name: row["audio"]["bytes"] for name, row in rows.items() if row["audio"]}
    assert sounds == {name: songs[name] for name in (on_s3, full, relative)}
    listed = (tmp_path / "out/missing_audio.csv").read_text().splitlines()[1:]
    assert sorted(listed) == sorted(f"{name},{links[name]}" for name in (web, missing))
    silent = {name for name, row in rows.items() if "audio_missing" in {defect["what"] for defect in row["defects"]}}
    assert silent == {web, missing}


RUN = """
import sys
from hf_datasets.builders import builder_class
from hf_datasets.prepare import main
builder_class(sys.argv[1]).SHARD_INPUTS = 2
main(sys.argv[1:])
"""


@pytest.mark.slow
@over_data_sets
@pytest.mark.parametrize("to_s3", [False, True])
def test_a_killed_run_on_s3_continues_and_gives_the_same_bytes(name, to_s3, s3, tmp_path, monkeypatch):
    monkeypatch.setattr(builder_class(name), "SHARD_INPUTS", 2)
    raw = raw_tree(name, tmp_path / "raw")
    embed = embed_options(name)
    main([name, "--raw_dir", str(raw), "--output_dir", str(tmp_path / "local"), *embed])
    s3.put_folder(raw, "s3://corpora/raw")
    output = "s3://corpora/prepared" if to_s3 else str(tmp_path / "output")
    command = [sys.executable, "-c", RUN, name, "--raw_dir", "s3://corpora/raw", "--output_dir", output, *embed]

    def written() -> dict[str, bytes]:
        return s3.contents("s3://corpora/prepared") if to_s3 else contents(tmp_path / "output")

    def finished_shards() -> list[str]:
        # By name only: the child may rename a file before it can be opened here.
        paths = s3.contents("s3://corpora/prepared") if to_s3 else map(str, (tmp_path / "output").rglob("*"))
        return [path for path in paths if path.endswith(".parquet") and not Path(path).name.startswith(".")]

    s3.proxy.latency = 0.3  # s; slow enough to be killed after the first shard
    child = subprocess.Popen(command, cwd=HERE.parent, start_new_session=True)
    while not finished_shards():
        assert child.poll() is None
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert ".huggingface.yaml" in written()
    assert not any("default" in config for config in yaml.safe_load(written()[".huggingface.yaml"])["configs"])
    s3.proxy.latency = 0
    subprocess.run(command, check=True, cwd=HERE.parent)
    assert written() == contents(tmp_path / "local")


def test_glob_characters_in_a_prefix_do_not_delete_files_of_other_prefixes(s3):
    for prefix in ("s3://corpora/odd [x]", "s3://corpora/odd x", "s3://corpora/odd ?"):
        for name in ("data/old.parquet", "data/new.parquet"):
            s3.put(f"{prefix}/{name}", b"rows")
    for prefix in ("s3://corpora/odd [x]", "s3://corpora/odd ?"):
        open_location(prefix).remove(["data/old.parquet"])
    names = {f"odd {part}/data/{name}.parquet" for part in "[x] ? x".split() for name in ("old", "new")}
    assert set(s3.contents("s3://corpora")) == names - {"odd [x]/data/old.parquet", "odd ?/data/old.parquet"}


def test_a_changed_object_gives_another_digest(s3, tmp_path):
    raw = raw_tree("pmemo", tmp_path / "raw")
    s3.put_folder(raw, "s3://corpora/raw")
    arguments = ["pmemo", "--raw_dir", "s3://corpora/raw", "--output_dir", str(tmp_path / "output")]
    main(arguments)
    before = set(contents(tmp_path / "output"))
    (eda, *_) = (raw / "PMEmo2019" / "EDA").iterdir()
    s3.put(f"s3://corpora/raw/PMEmo2019/EDA/{eda.name}", eda.read_bytes().replace(b"0.02,", b"0.020,", 1))
    main(arguments)
    after = set(contents(tmp_path / "output"))
    assert not [name for name in before & after if name.endswith(".parquet")]


def test_a_failed_download_stops_the_run_and_is_not_a_defect(s3, tmp_path, monkeypatch):
    raw = raw_tree("pmemo", tmp_path / "raw")
    s3.put_folder(raw, "s3://corpora/raw")
    sound = next((raw / "PMEmo2019" / "chorus").iterdir()).name
    s3.proxy.rules.append(Rule(f"^GET .*/chorus/{sound}", Status(403)))
    arguments = ["--raw_dir", "s3://corpora/raw", "--output_dir", tmp_path / "output"]
    message = complaint(main, "pmemo", *arguments)
    assert sound in message
    assert "AccessDenied" in message
    s3.proxy.rules.clear()
    main(["pmemo", *map(str, arguments)])
    assert "unreadable_audio" not in (tmp_path / "output" / "defects.csv").read_text()


def test_wrong_urls_are_an_error_in_one_line(s3, tmp_path):
    s3.put("s3://corpora/x/y.txt", b"")
    assert "no-such-bucket" in complaint(main, "pmemo", "--raw_dir", "s3://no-such-bucket/raw")
    for prefix in ("x", "none"):
        assert f"--raw_dir=s3://corpora/{prefix}: " in complaint(main, "pmemo", "--raw_dir", f"s3://corpora/{prefix}")
    raw = raw_tree("pmemo", tmp_path / "raw")
    message = complaint(main, "pmemo", "--raw_dir", raw, "--output_dir", "s3://none/prepared")
    assert "--output_dir=s3://none/prepared: bucket 'none'" in message
    assert "--output_dir=ftp://x/y: " in complaint(main, "pmemo", "--raw_dir", raw, "--output_dir", "ftp://x/y")
    message = complaint(main, "pmemo", "--raw_dir", raw, "--s3", "secret=x")
    assert "secret" in message
    assert "secret=x" not in message


def test_a_run_reads_prepared_data_from_s3_and_refuses_unfinished_data(s3, tmp_path, monkeypatch):
    from tasks.eda.task import TASK as eda
    from training.rows import load_rows
    from training.settings import RunArguments

    for path in (HERE / "pmemo" / "sample").glob("sample-*.parquet"):
        s3.put(f"s3://corpora/ready/data/train-{path.stem[-16:]}-00000-of-00001.parquet", path.read_bytes())
    arguments = RunArguments(dataset="s3://corpora/ready")
    with pytest.raises(ValueError, match="python -m hf_datasets.prepare"):
        load_rows(arguments, eda.columns)
    configs = [
        {"config_name": "full", "default": True, "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    s3.put("s3://corpora/ready/.huggingface.yaml", yaml.safe_dump({"configs": configs}).encode())
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    s3.proxy.forget()
    for _ in range(2):  # the second time from the local cache
        rows, source = load_rows(arguments, eda.columns)
        assert len(rows) == 20
        assert next(iter(source.files)).startswith("train-")
        assert s3.proxy.count(r"^GET .*parquet") == 1
