"""prepare: partial data never load, the number of processes changes no byte, and bad input is an error in one line."""

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
from tests.helpers.programs import TIMEOUT, paused_after

REPOSITORY = HERE.parent


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Return a clean raw tree of 40 short songs, which gives three shards."""
    folder = tmp_path_factory.mktemp("raw")
    synthesize(folder, num_songs=40, num_listeners=2, seconds=(5.0, 5.5), defects="none")
    return folder


@pytest.fixture
def small(tmp_path) -> Path:
    """Return a raw tree of three songs, which a test may damage."""
    synthesize(tmp_path / "raw", num_songs=3, num_listeners=2, seconds=(5.0, 5.5), defects="none")
    return tmp_path / "raw"


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def load(tmp_path):
    """Return `load_dataset(...)["train"]` with one cache per test, to see that a warm cache serves no stale rows."""
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


# Loading before, during and after a run


def test_the_same_call_loads_the_sample_then_the_prepared_rows_then_a_changed_value(small, tmp_path, load):
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
    assert len(list((folder / "data").glob("*.parquet"))) == 1  # the shard with the old digest was deleted
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


def test_a_readme_that_is_not_a_card_is_not_overwritten(small, output):
    output.mkdir()
    (output / "README.md").write_text("# My own notes")
    assert f"{output / 'README.md'}: " in complaint("--raw_dir", small, "--output_dir", output)
    assert contents(output) == {"README.md": b"# My own notes"}


def test_formulas_in_defects_csv_are_escaped():
    defect = make_defect("unexpected_file", detail='=HYPERLINK("http://x")', listener="@SUM(1)")
    steep = make_defect("steep_slope", how_much=-1.5, listener="-7")
    lines = list(csv.reader(defects_csv([("+cmd", defect), ("caf\udce9", steep)]).splitlines()))
    assert lines[1][:2] == ["'+cmd", "'@SUM(1)"]
    assert lines[1][5] == '\'=HYPERLINK("http://x")'
    assert lines[2][:4] == ["caf\\udce9", "-7", "steep_slope", "-1.5"]


def test_defects_csv_has_one_line_per_defect(small, output, load):
    edit_first_value(small, -2.0)
    (small / "PMEmo2019" / "EDA" / "notes.txt").write_text("mine")
    run("--raw_dir", small, "--output_dir", output)
    lines = (output / "defects.csv").read_text().splitlines()
    assert lines[0] == "song,listener,what,how_much,unit,detail"
    assert lines[1] == ",,unexpected_file,,,EDA/notes.txt"
    assert len(lines) == 2 + sum(len(defects) for defects in load(output)["defects"])
    assert sum(",negative_eda,-2.0,uS," in line for line in lines) == 1


def test_an_unfinished_run_cannot_be_loaded_and_the_next_run_finishes_it(raw, output, load, monkeypatch):
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
    assert os.strerror(errno.ENOSPC) in message
    assert re.search(r"1 of 3 shards .* \d+ MB", message)
    (finished,) = (output / "data").glob("[!.]*")
    with pytest.raises(Exception, match="run-prepare-again"):
        load(output)
    before = finished.stat()
    run("--raw_dir", raw, "--output_dir", output)
    assert (finished.stat().st_mtime_ns, finished.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert len(load(output)) == 40


def test_an_unfinished_run_does_not_change_published_rows(small, raw, output, load, monkeypatch):
    run("--raw_dir", small, "--output_dir", output)
    published = contents(output)

    def full_disk(file, tables, schema, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_parquet", full_disk)
        complaint("--raw_dir", raw, "--output_dir", output)
    assert contents(output) == published
    assert len(load(output)) == 3


def test_a_limit_on_file_size_is_reported_and_leaves_no_temporary_file(small, output):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # bytes; the shard needs about 60,000
    try:
        message = complaint("--raw_dir", small, "--output_dir", output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.strerror(errno.EFBIG) in message
    assert "0 of 1 shard " in message
    assert [path.name for path in (output / "data").iterdir()] == [".prepare.lock"]
    run("--raw_dir", small, "--output_dir", output)


def test_a_run_waits_for_another_run_on_the_same_folder(small, output):
    (output / "data").mkdir(parents=True)
    with FileLock(output / "data" / ".prepare.lock"):
        thread = threading.Thread(target=run, args=("--raw_dir", small, "--output_dir", output))
        thread.start()
        thread.join(1.0)
        assert thread.is_alive()
        assert not (output / ".huggingface.yaml").exists()
    thread.join(TIMEOUT)
    assert (output / ".huggingface.yaml").exists()


def test_an_interrupted_run_ends_with_one_line(small, output, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "write_shard", interrupt)
    with pytest.raises(SystemExit) as stopped:
        run("--raw_dir", small, "--output_dir", output)
    assert stopped.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("prepare: stopped")


def test_a_second_run_writes_nothing_new(small, output):
    run("--raw_dir", small, "--output_dir", output)
    first = contents(output)
    (shard,) = (output / "data").glob("*.parquet")
    inode = shard.stat().st_ino
    run("--raw_dir", small, "--output_dir", output)
    assert contents(output) == first
    assert shard.stat().st_ino == inode


# Unreadable input


@pytest.mark.parametrize("name", data_set_names())
def test_the_number_of_rows_per_split_and_the_folder_are_printed(name, output, tmp_path, capsys):
    """Also in a second run, which writes no row."""
    prepared_data.synthesize(name, tmp_path / "raw")
    for _ in range(2):
        main([name, *prepared_data.raw_options(name, tmp_path / "raw"), "--output_dir", str(output)])
        files = {path: pq.read_metadata(path).num_rows for path in sorted((output / "data").glob("*.parquet"))}
        splits = {path.name.split("-")[0] for path in files}
        counts = {s: sum(rows for path, rows in files.items() if path.name.startswith(f"{s}-")) for s in splits}
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("written: ")]
        printed = re.fullmatch(rf"written: (\d+) rows \((.*)\) in {re.escape(str(output))}", line)
        assert int(printed[1]) == sum(counts.values()) > 1
        assert dict(part.split(" ") for part in printed[2].split(", ")) == {s: str(n) for s, n in counts.items()}


def test_unreadable_input_is_published_only_with_keep_unreadable(small, output, load):
    mp3 = sorted((small / "PMEmo2019" / "chorus").iterdir())[0]
    mp3.write_bytes(b"no sound at all" * 50)
    message = complaint("--raw_dir", small, "--output_dir", output)
    assert mp3.name in message
    assert "--keep_unreadable" in message
    (shard,) = (output / "data").glob("*.parquet")
    inode = shard.stat().st_ino
    run("--raw_dir", small, "--output_dir", output, "--keep_unreadable")
    assert shard.stat().st_ino == inode  # not written again
    rows = load(output)
    unreadable = [row for row in rows if any(defect["what"] == "unreadable_audio" for defect in row["defects"])]
    assert len(rows) == 3
    assert [row["audio"]["path"] for row in unreadable] == [mp3.name]


def test_the_error_quotes_text_in_a_number_column(small, output):
    path = next(small.rglob("*_EDA.csv"))
    path.write_text(path.read_text() + "5.9,high,1.0\n")
    message = complaint("--raw_dir", small, "--output_dir", output)
    assert "non_numeric_cell" in message
    assert "'high'" in message


def test_check_only_counts_defects_writes_nothing_and_fails_for_unreadable_input(small, output, capsys):
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
        (shutil.rmtree, "--raw_dir={raw}: .*empty"),
        (without_eda, "--raw_dir={raw}: metadata.csv is in {raw}/PMEmo2019 "),
        (with_eda_file, "{raw}/PMEmo2019/EDA: "),
        (with_chorus_file, "{raw}/PMEmo2019/chorus: "),
        (without_column, r"metadata.csv lacks .*\['fileName'\].*\['musicId', 'title'\]"),
        (in_another_encoding, "metadata.csv line 2 .*UTF-8"),
        (twice, r"--raw_dir={raw}: .*\({raw}/PMEmo2019, {raw}/copy\)"),
    ],
)
def test_a_damaged_raw_folder_is_an_error_in_one_line_and_nothing_is_written(small, output, damage, expected):
    damage(small / "PMEmo2019")
    message = complaint("--raw_dir", small, "--output_dir", output)
    assert re.search(expected.replace("{raw}", re.escape(str(small))), message)
    assert not output.exists()


def test_wrong_options_are_an_error_in_one_line(small, tmp_path):
    file = make_file(tmp_path / "file")
    assert f"--raw_dir={tmp_path / 'nowhere'}: " in complaint("--raw_dir", tmp_path / "nowhere")
    assert f"--raw_dir={file}: " in complaint("--raw_dir", file)
    assert f"{file}: " in complaint("--raw_dir", small, "--output_dir", file)
    data = make_file(tmp_path / "folder" / "data")
    assert f"{data}: " in complaint("--raw_dir", small, "--output_dir", tmp_path / "folder")
    message = complaint("--raw_dir", small, "--output_dir", file / "below")
    assert f"{file / 'below' / 'data'}: " in message
    assert os.strerror(errno.ENOTDIR) in message
    assert "--num_proc=0: " in complaint("--raw_dir", small, "--num_proc", 0)
    with pytest.raises(SystemExit, match="'pnemo': .*pmemo"):
        main(["pnemo", "--raw_dir", str(small)])


def test_help_lists_every_option_with_its_meaning_and_default(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for key in ("raw_dir", "output_dir", "num_proc", "check_only", "keep_unreadable", "rebuild_samples"):
        assert re.search(rf"--{key} .*?\(default: \w+\)", text.split("options:", 1)[1])


# Writing


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("bad"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, error):
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
def test_cutting_inputs_keeps_each_input_once(count, size):
    cuts = cut_inputs({"songs": list(range(count)), "root": "x"}, size)
    assert [song for cut in cuts for song in cut["songs"]] == list(range(count))
    assert all(len(cut["songs"]) <= size and cut["root"] == "x" for cut in cuts)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_the_bytes_of_a_shard_do_not_depend_on_the_sizes_of_the_tables(sizes):
    rows = pa.table({"a": list(range(sum(sizes)))})
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    files = [pa.BufferOutputStream(), pa.BufferOutputStream()]
    write_parquet(files[0], [rows.slice(i, 1) for i in range(len(rows))], rows.schema)
    write_parquet(files[1], [rows.slice(start, size) for start, size in zip(starts, sizes, strict=True)], rows.schema)
    assert files[0].getvalue() == files[1].getvalue()
    assert pq.read_table(pa.BufferReader(files[0].getvalue())).equals(rows)


def test_one_ahead_yields_the_items_in_order_and_raises_their_error():
    def items():
        yield from range(5)
        raise ValueError("the sixth")

    ahead = one_ahead(items())
    assert [next(ahead) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="the sixth"):
        next(ahead)
    assert list(one_ahead(iter([]))) == []
    assert list(one_ahead(iter([None, 0]))) == [None, 0]


def test_one_ahead_makes_at_most_one_item_more_than_it_yields():
    started = []
    ahead = one_ahead(started.append(i) or i for i in range(9))
    assert next(ahead) == 0
    ahead.close()
    assert started in ([0], [0, 1])


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
    """Return the live processes in the session of `leader`."""
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
def test_a_killed_run_leaves_no_process_and_no_loadable_data_and_the_next_run_finishes_it(tmp_path, load):
    raw_dir, output = tmp_path / "raw", tmp_path / "output"
    synthesize(raw_dir, num_songs=48, num_listeners=2, seconds=(6.0, 6.0), defects="none")
    environment = os.environ | paused_after("train-*.parquet", 1)
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
    assert 0 < len(finished) <= 2  # of 3: each of the two workers stopped after one shard
    with pytest.raises(Exception, match="run-prepare-again"):
        load(output)
    again = command("--raw_dir", raw_dir, "--output_dir", output, "--num_proc", 2, cwd=REPOSITORY)
    assert again.wait(TIMEOUT) == 0, again.stderr.read()
    assert all(path.stat().st_ino == inode for path, inode in finished.items())
    run("--raw_dir", raw_dir, "--output_dir", tmp_path / "uninterrupted")
    assert contents(output) == contents(tmp_path / "uninterrupted")
    assert len(load(output)) == 48


@pytest.mark.slow
def test_a_fresh_offline_clone_loads_the_sample_and_after_prepare_also_the_new_rows(small, tmp_path):
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
