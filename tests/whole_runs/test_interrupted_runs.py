"""Stopped runs, as a user resumes them: damaged checkpoints, other data, a folder in use, and no secret in a file."""

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
    """A copy of the creatives of the sample, which may be written again."""
    folder = tmp_path_factory.mktemp("data") / "tunein"
    shutil.copytree(REPOSITORY / "hf_datasets/tunein/sample", folder / "sample")
    shutil.copy(REPOSITORY / "hf_datasets/tunein/README.md", folder)
    return folder


@pytest.fixture(scope="module")
def command(dataset: Path) -> list[str | Path]:
    """A short run of two processes that keeps all of its checkpoints; its folder comes next."""
    return ["run_train.py", "configs/tunein_attention.json", "--dataset", dataset, *SHORT, "--output_dir"]


@pytest.fixture(scope="module")
def whole(command: list[str | Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    end_ranks(start_ranks(2, folder.with_name("said"), *command, folder), folder.with_name("said"))
    return folder


def checkpoints(folder: Path) -> list[Path]:
    """The oldest comes first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def contents(file: Path) -> list[bytes]:
    """What is in a file, also in one that is an archive."""
    if not zipfile.is_zipfile(file):
        return [file.read_bytes()]
    with zipfile.ZipFile(file) as archive:
        return [file.read_bytes(), *map(archive.read, archive.namelist())]


def test_a_token_is_in_no_file(whole: Path) -> None:
    files = [path for path in whole.rglob("*") if path.is_file()]
    assert {"training_args.bin", "metrics.json", "run_config.json"} <= {path.name for path in files}
    assert [path for path in files if any(TOKEN.encode() in content for content in contents(path))] == []


def test_all_ranks_go_on_from_the_checkpoint_before_a_damaged_one_to_the_same_bits(
    whole: Path, command: list[str | Path], tmp_path: Path
) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    before, newest, _ = checkpoints(whole)
    copy_as_interrupted(whole, folder, before.name)
    shutil.copytree(newest, folder / newest.name)
    harmed = folder / newest.name / "rng_state_1.pth"  # the main process looks after the files of all
    harmed.write_bytes(harmed.read_bytes()[:100])
    resume = (*command, folder, "--resume_from_checkpoint", "true")
    heard = end_ranks(start_ranks(2, said, *resume), said)
    assert any(newest.name in line and harmed.name in line for line in heard.splitlines())
    assert_same_weights(folder, whole)
    assert pq.read_table(folder / "predictions.parquet").equals(pq.read_table(whole / "predictions.parquet"))


@pytest.mark.parametrize("prepared_again", [True, False])
def test_a_run_does_not_go_on_with_other_targets(
    prepared_again: bool, whole: Path, dataset: Path, command: list[str | Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    copy_as_interrupted(whole, folder, checkpoints(whole)[0].name)
    (shard,) = (dataset / "sample").glob("*.parquet")
    card = dataset / "README.md"
    kept = {shard: shard.read_bytes(), card: card.read_bytes()}
    table = pq.read_table(shard)
    place = table.column_names.index("target")
    others = pc.subtract(pa.scalar(1.0, table["target"].type), table["target"])
    changed = shard.with_name("sample-train-0123456789abcdef.parquet") if prepared_again else shard
    shard.unlink()
    pq.write_table(table.set_column(place, table.field("target"), others), changed)
    card.write_text(card.read_text().replace(shard.name, changed.name))
    try:
        done = run(sys.executable, *command, folder, "--resume_from_checkpoint", "true", fails=True)
    finally:
        changed.unlink()
        for path, content in kept.items():
            path.write_bytes(content)
    assert f"dataset={dataset}: " in last_line(done)
    assert shard.name in last_line(done) or changed.name in last_line(done)
    assert not (folder / "metrics.json").exists()


def test_a_second_training_into_a_folder_is_refused_until_the_first_is_killed(
    command: list[str | Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    again = [*command, folder, "--num_train_epochs", "2000"]
    first = start(*again, "--dataloader_num_workers", "1", said=tmp_path / "said")
    deadline = time.monotonic() + TIMEOUT
    while not list(folder.glob("checkpoint-*/trainer_state.json")):
        assert first.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for more in ((), ("--resume_from_checkpoint", "true")):
        done = run(sys.executable, *again, *more, fails=True)
        assert f"output_dir={folder}: " in last_line(done)
        assert "Traceback" not in done.stderr
    os.kill(first.pid, signal.SIGKILL)  # its worker lives on for some seconds
    first.join()
    done = run(sys.executable, *again, "--resume_from_checkpoint", "true", "--max_steps", "1", fails=True)
    assert "max_steps" in last_line(done)  # past the lock, another setting is what is refused
