"""Interrupted runs, as a user resumes them: damaged checkpoints, other data, a folder in use, no secrets in files."""

import os
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.helpers.programs import TIMEOUT, end_ranks, last_line, run, start, start_ranks
from tests.helpers.run_folders import assert_same_weights, copy_as_interrupted

pytestmark = pytest.mark.slow

TOKEN = "hf_hush0123456789"
SHORT = (
    "--dataset_config", "sample", "--num_train_epochs", "3", "--save_total_limit", "9", "--ablations", "false",
    "--disable_tqdm", "true", "--num_threads", "1", "--use_cpu", "true", "--hub_token", TOKEN,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the creatives of the sample, so that tests can change them."""
    folder = tmp_path_factory.mktemp("data") / "tunein"
    shutil.copytree(REPOSITORY / "hf_datasets/tunein/sample", folder / "sample")
    shutil.copy(REPOSITORY / "hf_datasets/tunein/README.md", folder)
    return folder


@pytest.fixture(scope="module")
def command(dataset: Path) -> list[str | Path]:
    """Return the command of a short run that keeps all checkpoints, without the output folder at its end."""
    return ["run_train.py", "configs/tunein_attention.json", "--dataset", dataset, *SHORT, "--output_dir"]


@pytest.fixture(scope="module")
def uninterrupted(command: list[str | Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    end_ranks(start_ranks(2, folder.with_name("log"), *command, folder), folder.with_name("log"))
    return folder


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def contents(file: Path) -> list[bytes]:
    """Return the content of a file, and of its members if it is an archive."""
    if not zipfile.is_zipfile(file):
        return [file.read_bytes()]
    with zipfile.ZipFile(file) as archive:
        return [file.read_bytes(), *map(archive.read, archive.namelist())]


def test_no_file_contains_the_token(uninterrupted: Path) -> None:
    files = [path for path in uninterrupted.rglob("*") if path.is_file()]
    assert {"training_args.bin", "metrics.json", "run_config.json"} <= {path.name for path in files}
    assert [path for path in files if any(TOKEN.encode() in content for content in contents(path))] == []


def test_all_ranks_resume_from_the_checkpoint_before_a_damaged_one_to_the_same_weights(
    uninterrupted: Path, command: list[str | Path], tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    older, newest, _ = checkpoints(uninterrupted)
    copy_as_interrupted(uninterrupted, folder, older.name)
    shutil.copytree(newest, folder / newest.name)
    damaged = folder / newest.name / "rng_state_1.pth"  # of the other rank: the main process checks the files of all
    damaged.write_bytes(damaged.read_bytes()[:100])
    resume = (*command, folder, "--resume_from_checkpoint", "true")
    output = end_ranks(start_ranks(2, log, *resume), log)
    assert any(newest.name in line and damaged.name in line for line in output.splitlines())
    assert_same_weights(folder, uninterrupted)
    assert pq.read_table(folder / "predictions.parquet").equals(pq.read_table(uninterrupted / "predictions.parquet"))


@pytest.mark.parametrize("prepared_again", [True, False])
def test_a_run_does_not_resume_with_other_targets(
    prepared_again: bool, uninterrupted: Path, dataset: Path, command: list[str | Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    copy_as_interrupted(uninterrupted, folder, checkpoints(uninterrupted)[0].name)
    (shard,) = (dataset / "sample").glob("*.parquet")
    card = dataset / "README.md"
    originals = {shard: shard.read_bytes(), card: card.read_bytes()}
    table = pq.read_table(shard)
    column = table.column_names.index("target")
    other_targets = pc.subtract(pa.scalar(1.0, table["target"].type), table["target"])
    changed = shard.with_name("sample-train-0123456789abcdef.parquet") if prepared_again else shard
    shard.unlink()
    pq.write_table(table.set_column(column, table.field("target"), other_targets), changed)
    card.write_text(card.read_text().replace(shard.name, changed.name))
    try:
        done = run(sys.executable, *command, folder, "--resume_from_checkpoint", "true", fails=True)
    finally:
        changed.unlink()
        for path, content in originals.items():
            path.write_bytes(content)
    assert f"dataset={str(dataset)!r}: " in last_line(done)
    assert shard.name in last_line(done) or changed.name in last_line(done)
    assert not (folder / "metrics.json").exists()


def test_a_folder_in_use_is_rejected_until_the_first_run_is_killed(command: list[str | Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    endless = [*command, folder, "--num_train_epochs", "2000"]
    first = start(*endless, "--dataloader_num_workers", "1", log=tmp_path / "log")
    deadline = time.monotonic() + TIMEOUT
    while not list(folder.glob("checkpoint-*/trainer_state.json")):
        assert first.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for more in ((), ("--resume_from_checkpoint", "true")):
        done = run(sys.executable, *endless, *more, fails=True)
        assert f"output_dir={folder}: " in last_line(done)
        assert "Traceback" not in done.stderr
    os.kill(first.pid, signal.SIGKILL)  # its worker survives for some seconds, but must not keep the lock
    first.join()
    done = run(sys.executable, *endless, "--resume_from_checkpoint", "true", "--max_steps", "1", fails=True)
    assert "max_steps" in last_line(done)  # the lock is free, so the next check rejects the run
