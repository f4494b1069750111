"""prepare: nothing half is loadable, the same bytes whatever the processes, every bad input is one line that helps."""

import csv
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets import prepare as prepare_module
from hf_datasets import shards
from hf_datasets.cards import split_card
from hf_datasets.defects import defects_csv, make_defect
from hf_datasets.names import HERE, data_set_names
from hf_datasets.output import Folder, WriteError
from hf_datasets.pmemo.builder import PmemoBuilder
from hf_datasets.pmemo.synthesize import synthesize
from hf_datasets.prepare import main
from hf_datasets.shards import cut_inputs, one_ahead, write_parquet
from tests.helpers import prepared_data
from tests.helpers.prepared_data import contents
from tests.helpers.programs import TIMEOUT, held

REPOSITORY = HERE.parent


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A clean raw tree of 40 short songs: three shards."""
    folder = tmp_path_factory.mktemp("raw")
    synthesize(folder, num_songs=40, num_listeners=2, seconds=(5.0, 5.5), defects="none")
    return folder


@pytest.fixture
def small(tmp_path) -> Path:
    """A raw tree of three songs, to be damaged."""
    synthesize(tmp_path / "raw", num_songs=3, num_listeners=2, seconds=(5.0, 5.5), defects="none")
    return tmp_path / "raw"


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def load(tmp_path):
    """`load_dataset(...)["train"]` with one cache for the whole test: the point is what a warm cache serves."""
    return lambda *arguments: datasets.load_dataset(*map(str, arguments), cache_dir=str(tmp_path / "cache"))["train"]


def run(*arguments: object) -> None:
    main(["pmemo", *map(str, arguments)])


def complaint(*arguments: object) -> str:
    """Return the one line that a failing run ends with."""
    message = prepared_data.complaint(main, "pmemo", *arguments)
    assert message.startswith("prepare: ")
    return message


def edit_first_value(raw_dir: Path, value: float) -> None:
    path = min(raw_dir.rglob("*_EDA.csv"), key=lambda path: int(path.stem.split("_")[0]))
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    lines[1] = ",".join([cells[0], repr(value), *cells[2:]])
    path.write_text("\n".join(lines) + "\n")


# What can be loaded when


def test_the_same_call_gives_the_sample_then_the_new_rows_then_the_changed_value(small, tmp_path, load):
    folder = tmp_path / "pmemo"
    shutil.copytree(HERE / "pmemo", folder, ignore=shutil.ignore_patterns("data", ".huggingface.yaml", "__pycache__"))
    sample = load(folder)
    assert len(sample) == 20
    run("--raw_dir", small, "--output_dir", folder)
    full = load(folder)
    assert len(full) == 3
    assert full["synthetic"] == [True] * 3
    assert load(folder, "sample")["song_id"][:] == sample["song_id"][:]
    assert len(load(folder, "sample_null")) == 20
    edit_first_value(small, 1.25)
    assert full[0]["trials"][0]["eda"][0] != 1.25
    run("--raw_dir", small, "--output_dir", folder)
    assert load(folder)[0]["trials"][0]["eda"][0] == 1.25
    assert len(list((folder / "data").glob("*.parquet"))) == 1  # the older digest is gone
    assert len(load(folder, "sample")) == 20


def test_another_output_folder_gets_a_card_and_loads_with_the_builders_features(small, output, tmp_path, load):
    run("--raw_dir", small, "--output_dir", output)
    rows = load(output)
    builder = PmemoBuilder(raw_dir=small, cache_dir=str(tmp_path / "builder"))
    assert rows.features == builder.info.features
    assert len(rows) == 3
    front, body = split_card((output / "README.md").read_text())
    assert [entry["config_name"] for entry in front["configs"]] == ["full"]
    assert "## Licence" in body
    (output / ".huggingface.yaml").unlink()  # the card alone is enough, as on the Hub
    assert len(load(output)) == 3


def test_a_readme_that_is_no_card_is_left_alone(small, output):
    output.mkdir()
    (output / "README.md").write_text("# My own notes")
    assert "README.md is no data set's card" in complaint("--raw_dir", small, "--output_dir", output)
    assert contents(output) == {"README.md": b"# My own notes"}


def test_a_defect_of_an_odd_id_is_a_line_that_no_spreadsheet_runs():
    defect = make_defect("unexpected_file", detail='=HYPERLINK("http://x")', listener="@SUM(1)")
    steep = make_defect("steep_slope", how_much=-1.5, listener="-7")
    lines = list(csv.reader(defects_csv([("+cmd", defect), ("caf\udce9", steep)]).splitlines()))
    assert lines[1][:2] == ["'+cmd", "'@SUM(1)"]
    assert lines[1][5] == '\'=HYPERLINK("http://x")'
    assert lines[2][:4] == ["caf\\udce9", "-7", "steep_slope", "-1.5"]


def test_defects_csv_has_a_line_for_every_defect_of_every_row(small, output, load):
    edit_first_value(small, -2.0)
    (small / "PMEmo2019" / "EDA" / "notes.txt").write_text("mine")
    run("--raw_dir", small, "--output_dir", output)
    lines = (output / "defects.csv").read_text().splitlines()
    assert lines[0] == "song,listener,what,how_much,unit,detail"
    assert lines[1] == ",,unexpected_file,,,EDA/notes.txt"
    assert len(lines) == 2 + sum(len(defects) for defects in load(output)["defects"])
    assert sum(",negative_eda,-2.0,uS," in line for line in lines) == 1


def test_nothing_of_an_unfinished_run_can_be_loaded_and_the_next_run_finishes_it(raw, output, load, monkeypatch):
    written = []

    def full_disk(file, tables, schema, *_):
        if len(written) == 1:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(file.name)
        write_parquet(file, tables, schema)

    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_parquet", full_disk)
        message = complaint("--raw_dir", raw, "--output_dir", output)
    assert re.search(r"No space left on device; 1 of 3 shards finished and kept, up to \d+ MB more", message)
    (kept,) = (output / "data").glob("[!.]*")
    with pytest.raises(Exception, match="run-prepare-again"):
        load(output)
    before = kept.stat()
    run("--raw_dir", raw, "--output_dir", output)
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert len(load(output)) == 40


def test_an_unfinished_run_leaves_the_published_rows_as_they_were(small, raw, output, load, monkeypatch):
    run("--raw_dir", small, "--output_dir", output)
    published = contents(output)

    def full_disk(file, tables, schema, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_parquet", full_disk)
        complaint("--raw_dir", raw, "--output_dir", output)
    assert contents(output) == published
    assert len(load(output)) == 3


def test_a_real_limit_on_file_size_is_explained_and_leaves_no_temporary(small, output):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # bytes; the shard needs some 60,000
    try:
        message = complaint("--raw_dir", small, "--output_dir", output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in message
    assert "0 of 1 shard finished" in message
    assert [path.name for path in (output / "data").iterdir()] == [".prepare.lock"]
    run("--raw_dir", small, "--output_dir", output)


def test_a_run_waits_for_another_one_on_the_same_folder(small, output):
    (output / "data").mkdir(parents=True)
    with FileLock(output / "data" / ".prepare.lock"):
        thread = threading.Thread(target=run, args=("--raw_dir", small, "--output_dir", output))
        thread.start()
        thread.join(1.0)
        assert thread.is_alive()
        assert not (output / ".huggingface.yaml").exists()
    thread.join(TIMEOUT)
    assert (output / ".huggingface.yaml").exists()


def test_an_interrupted_run_says_how_to_go_on(small, output, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "write_shard", interrupt)
    with pytest.raises(SystemExit) as ended:
        run("--raw_dir", small, "--output_dir", output)
    assert ended.value.code == 130
    assert "prepare: stopped. Finished work is kept" in capsys.readouterr().err


def test_preparing_again_writes_nothing_new(small, output):
    run("--raw_dir", small, "--output_dir", output)
    first = contents(output)
    (shard,) = (output / "data").glob("*.parquet")
    inode = shard.stat().st_ino
    run("--raw_dir", small, "--output_dir", output)
    assert contents(output) == first
    assert shard.stat().st_ino == inode


# Unreadable input


@pytest.mark.parametrize("name", data_set_names())
def test_the_program_says_how_many_rows_it_wrote_and_where(name, output, tmp_path, capsys):
    """Also where all of them were written before."""
    prepared_data.synthesize(name, tmp_path / "raw")
    for _ in range(2):
        main([name, *prepared_data.raw_options(name, tmp_path / "raw"), "--output_dir", str(output)])
        files = {path: pq.read_metadata(path).num_rows for path in sorted((output / "data").glob("*.parquet"))}
        splits = {path.name.split("-")[0] for path in files}
        counts = {s: sum(rows for path, rows in files.items() if path.name.startswith(f"{s}-")) for s in splits}
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("written: ")]
        said = re.fullmatch(rf"written: (\d+) rows \((.*)\) in {re.escape(str(output))}", line)
        assert int(said[1]) == sum(counts.values()) > 1
        assert dict(part.split(" ") for part in said[2].split(", ")) == {s: str(count) for s, count in counts.items()}


def test_unreadable_input_stops_publishing_until_it_is_kept_flagged(small, output, load):
    mp3 = sorted((small / "PMEmo2019" / "chorus").iterdir())[0]
    mp3.write_bytes(b"no sound at all" * 50)
    message = complaint("--raw_dir", small, "--output_dir", output)
    assert mp3.name in message
    assert "--keep_unreadable" in message
    (shard,) = (output / "data").glob("*.parquet")
    inode = shard.stat().st_ino
    run("--raw_dir", small, "--output_dir", output, "--keep_unreadable")
    assert shard.stat().st_ino == inode  # published at once
    rows = load(output)
    flagged = [row for row in rows if any(defect["what"] == "unreadable_audio" for defect in row["defects"])]
    assert len(rows) == 3
    assert [row["audio"]["path"] for row in flagged] == [mp3.name]


def test_text_in_a_number_column_is_named(small, output):
    path = next(small.rglob("*_EDA.csv"))
    path.write_text(path.read_text() + "5.9,high,1.0\n")
    message = complaint("--raw_dir", small, "--output_dir", output)
    assert "non_numeric_cell" in message
    assert "'high'" in message


def test_check_only_counts_by_kind_writes_nothing_and_fails_on_unreadable_input(small, output, capsys):
    before = contents(small)
    with pytest.raises(SystemExit) as stopped:
        run("--raw_dir", small, "--output_dir", output, "--check_only")
    assert stopped.value.code == 0
    assert re.search(r"^ +3 +3  eda_longer_than_audio \[s\]: ", capsys.readouterr().out, re.MULTILINE)
    emptied = next(small.rglob("*_EDA.csv"))
    emptied.write_text("")
    with pytest.raises(SystemExit) as stopped:
        run("--raw_dir", small, "--output_dir", output, "--check_only")
    assert stopped.value.code == 1
    assert re.search(r"^ +1 +1  unreadable_eda", capsys.readouterr().out, re.MULTILINE)
    assert not output.exists()
    assert contents(small) == before | {str(emptied.relative_to(small)): b""}


def make_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def without_eda(root: Path) -> None:
    shutil.rmtree(root / "EDA")


def with_eda_file(root: Path) -> None:
    without_eda(root)
    make_file(root / "EDA")


def with_chorus_file(root: Path) -> None:
    shutil.rmtree(root / "chorus")
    make_file(root / "chorus")


def without_column(root: Path) -> None:
    (root / "metadata.csv").write_text("musicId,title\n1,x\n")


def in_another_encoding(root: Path) -> None:
    (root / "metadata.csv").write_bytes(b"musicId,fileName,title\n1,1.mp3,caf\xe9\n")


def twice(root: Path) -> None:
    shutil.copytree(root, root.parent / "copy")


@pytest.mark.parametrize(
    "damage, expected",
    [
        (shutil.rmtree, "is empty; give the folder"),
        (without_eda, "without files in EDA/ beside it"),
        (with_eda_file, "EDA is a file; it should be the folder"),
        (with_chorus_file, "chorus is a file; it should be a folder"),
        (without_column, r"metadata.csv lacks the columns \['fileName'\]; it has \['musicId', 'title'\]"),
        (in_another_encoding, "metadata.csv line 2 is not UTF-8 text"),
        (twice, "holds several trees .*; give one of them"),
    ],
)
def test_a_raw_folder_that_is_not_understood_is_one_line_and_writes_nothing(small, output, damage, expected):
    damage(small / "PMEmo2019")
    assert re.search(expected, complaint("--raw_dir", small, "--output_dir", output))
    assert not output.exists()


def test_wrong_folders_and_names_are_one_line(small, tmp_path):
    file = make_file(tmp_path / "file")
    assert "does not exist" in complaint("--raw_dir", tmp_path / "nowhere")
    assert "is a file; unpack it" in complaint("--raw_dir", file)
    assert "is a file, where the output folder" in complaint("--raw_dir", small, "--output_dir", file)
    make_file(tmp_path / "there" / "data")
    assert "data is a file, where the output" in complaint("--raw_dir", small, "--output_dir", tmp_path / "there")
    assert "give an --output_dir to write to" in complaint("--raw_dir", small, "--output_dir", file / "below")
    assert "--num_proc 0" in complaint("--raw_dir", small, "--num_proc", 0)
    with pytest.raises(SystemExit, match=r"there is no data set 'pnemo'; there are \['.*pmemo"):
        main(["pnemo", "--raw_dir", str(small)])


def test_help_lists_every_key_with_its_meaning_and_default(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for key in ("raw_dir", "output_dir", "num_proc", "check_only", "keep_unreadable", "rebuild_samples"):
        assert re.search(rf"--{key} .*?\(default: \w+\)", text.split("options:")[1])


# Writing


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("bad"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    Folder(path.parent).write(path.name, lambda file: file.write(b"old"))

    def fail(file) -> None:
        file.write(b"new")
        raise error

    with pytest.raises(WriteError if isinstance(error, OSError) else type(error)):
        Folder(path.parent).write(path.name, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@given(st.integers(1, 50), st.integers(1, 20))
def test_cutting_inputs_loses_and_repeats_none(count, size):
    cuts = cut_inputs({"songs": list(range(count)), "root": "x"}, size)
    assert [song for cut in cuts for song in cut["songs"]] == list(range(count))
    assert all(len(cut["songs"]) <= size and cut["root"] == "x" for cut in cuts)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_the_bytes_of_a_shard_depend_on_the_rows_and_not_on_how_they_come(sizes):
    rows = pa.table({"a": list(range(sum(sizes)))})
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    files = [pa.BufferOutputStream(), pa.BufferOutputStream()]
    write_parquet(files[0], [rows.slice(i, 1) for i in range(len(rows))], rows.schema)
    write_parquet(files[1], [rows.slice(start, size) for start, size in zip(starts, sizes, strict=True)], rows.schema)
    assert files[0].getvalue() == files[1].getvalue()
    assert pq.read_table(pa.BufferReader(files[0].getvalue())).equals(rows)


def test_items_that_are_made_ahead_come_in_order_with_their_error():
    def items():
        yield from range(5)
        raise ValueError("the sixth")

    made = one_ahead(items())
    assert [next(made) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="the sixth"):
        next(made)
    assert list(one_ahead(iter([]))) == []
    assert list(one_ahead(iter([None, 0]))) == [None, 0]


def test_one_item_is_made_ahead_and_no_more_when_nobody_goes_on():
    begun = []
    made = one_ahead(begun.append(i) or i for i in range(9))
    assert next(made) == 0
    made.close()
    assert begun in ([0], [0, 1])


# Processes


def command(*arguments: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "hf_datasets.prepare", "pmemo", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def session_members(leader: int) -> list[int]:
    """Processes that were started under `leader`, which leads its own session."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            members.append(int(path.parent.name))
    return members


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(raw, tmp_path):
    run("--raw_dir", raw, "--output_dir", tmp_path / "one")
    run("--raw_dir", raw, "--output_dir", tmp_path / "two", "--num_proc", 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
def test_a_killed_run_shows_nothing_leaves_no_process_and_is_finished_by_the_next(tmp_path, load):
    raw_dir, output = tmp_path / "raw", tmp_path / "output"
    synthesize(raw_dir, num_songs=48, num_listeners=2, seconds=(6.0, 6.0), defects="none")
    environment = os.environ | held("train-*.parquet", 1)
    killed = command("--raw_dir", raw_dir, "--output_dir", output, "--num_proc", 2, cwd=REPOSITORY, env=environment)
    while not list(output.glob("data/train-*.parquet")):
        assert killed.poll() is None
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    deadline = time.monotonic() + TIMEOUT
    while session_members(killed.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session_members(killed.pid) == []
    finished = {path: path.stat().st_ino for path in output.glob("data/train-*.parquet")}
    assert 0 < len(finished) <= 2  # of 3: each worker stopped after one
    with pytest.raises(Exception, match="run-prepare-again"):
        load(output)
    again = command("--raw_dir", raw_dir, "--output_dir", output, "--num_proc", 2, cwd=REPOSITORY)
    assert again.wait(TIMEOUT) == 0, again.stderr.read()
    assert all(path.stat().st_ino == inode for path, inode in finished.items())
    run("--raw_dir", raw_dir, "--output_dir", tmp_path / "whole")
    assert contents(output) == contents(tmp_path / "whole")
    assert len(load(output)) == 48


@pytest.mark.slow
def test_a_fresh_clone_offline_with_an_empty_cache_loads_and_prepares_in_place(small, tmp_path):
    """As users do it: the sample, `prepare` into the clone, then the new rows and still the sample."""
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns("data", ".huggingface.yaml", "__pycache__", "defects.csv")
    for package in ("hf_datasets", "media", "system"):
        shutil.copytree(REPOSITORY / package, clone / package, ignore=ignored)
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_DATASETS_CACHE", None)
    card = (clone / "hf_datasets" / "pmemo" / "README.md").read_text()

    def counts() -> str:
        code = (
            "from datasets import load_dataset as load; folder = 'hf_datasets/pmemo'; "
            "print([len(load(folder)['train']), *(len(load(folder, c)['train']) for c in ('sample', 'sample_null'))])"
        )
        return subprocess.check_output([sys.executable, "-c", code], cwd=clone, env=environment, text=True).strip()

    assert counts() == "[20, 20, 20]"
    built = command("--raw_dir", small, "--num_proc", 2, cwd=clone, env=environment)
    assert built.wait(TIMEOUT) == 0, built.stderr.read()
    assert counts() == "[3, 20, 20]"
    assert (clone / "hf_datasets" / "pmemo" / "README.md").read_text() == card
    pointer = yaml.safe_load((clone / "hf_datasets" / "pmemo" / ".huggingface.yaml").read_text())
    assert [(entry["config_name"], entry.get("default", False)) for entry in pointer["configs"]] == [
        ("full", True),
        ("sample", False),
        ("sample_null", False),
    ]
