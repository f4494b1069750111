"""The folder of a training run: the lock, leftovers of killed runs, damaged checkpoints, and changed data."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from launch.run import parse_run
from tests.helpers.tiny_trainer import tiny_trainer
from training.checkpoints import find_damage, lock_run_folder, newest_intact_checkpoint
from training.run_folder import begin_run, checkpoint_to_resume
from training.task import Run

FORK = multiprocessing.get_context("fork")


def run_in(folder: Path, *more: str) -> Run:
    return parse_run(["--output_dir", str(folder), "--use_cpu", "true", *more])


# The lock


def lock_and_wait(folder: Path, locked: Event) -> None:
    """Hold the lock of a folder until this process is killed, with a worker that outlives it."""
    with lock_run_folder(run_in(folder).training):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        locked.set()
        time.sleep(600)


@pytest.mark.slow
def test_the_lock_is_released_when_its_process_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    locked = FORK.Event()
    first = FORK.Process(target=lock_and_wait, args=(folder, locked))
    first.start()
    assert locked.wait(600)
    with pytest.raises(ValueError, match=f"output_dir={folder}: "), lock_run_folder(run_in(folder).training):
        pass
    with lock_run_folder(run_in(tmp_path / "other").training):
        pass
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    with lock_run_folder(run_in(folder).training):
        pass


def test_only_leftovers_of_killed_runs_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leftovers = [".saving-a1b2/model.safetensors", ".metrics.json.part", "checkpoint-7/.mining.npz.part"]
    others = ["checkpoint-7/model.safetensors", "runs/events", "notes.part", "model.safetensors"]
    for name in leftovers + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with lock_run_folder(run_in(tmp_path).training):
        files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {*others, ".training.lock"}
    assert not (tmp_path / ".saving-a1b2").exists()
    assert all(any(name.removesuffix("/model.safetensors") in line for line in caplog.messages) for name in leftovers)


# Damage


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unfinished run, with the checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_trainer(folder, save_total_limit=None).train()
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` that a test can damage."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    """Flip a bit in a value: in the pickle of a zip, or near the end of another file."""
    place = content.find(b"data.pkl") + 200 if content.startswith(b"PK") else len(content) - 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def misnumber(content: bytes) -> bytes:
    """Flip a bit in the ZIP64 number of files, which no checksum covers."""
    place = content.rfind(b"PK\x06\x06") + 32
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def zero(content: bytes) -> bytes:
    """Return zeros of the same size, as after a power cut."""
    return bytes(len(content))


def latin(content: bytes) -> bytes:
    """Return text that is not UTF-8."""
    return content.replace(b'"epoch"', b'"\xe9poch"')


STATES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in STATES for damage in (cut, flip, zero)]
    + [(name, misnumber) for name in STATES[1:]]
    + [("trainer_state.json", damage) for damage in (cut, zero, latin)],
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    name: str, damage: Callable[[bytes], bytes], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder / "checkpoint-4" / name
    file.write_bytes(damage(file.read_bytes()))
    assert checkpoint_to_resume(run_in(folder, "--resume_from_checkpoint", "true")) == str(folder / "checkpoint-2")
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("training")]
    assert "checkpoint-4" in line
    assert name in line
    assert "\n" not in line
    with pytest.raises(ValueError, match=name):  # a checkpoint that is given by name is not replaced by another one
        checkpoint_to_resume(run_in(folder, "--resume_from_checkpoint", str(file.parent)))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"])
def test_a_checkpoint_with_a_missing_file_is_skipped(name: str, folder: Path) -> None:
    (folder / "checkpoint-4" / name).unlink()
    assert name in find_damage(folder / "checkpoint-4")
    assert newest_intact_checkpoint(folder) == folder / "checkpoint-2"


def test_an_intact_checkpoint_is_used_also_without_a_digest(folder: Path) -> None:
    assert newest_intact_checkpoint(folder) == folder / "checkpoint-4"
    # Older versions did not write this file.
    (folder / "checkpoint-4/model.safetensors.sha256").unlink()
    assert newest_intact_checkpoint(folder) == folder / "checkpoint-4"


def test_a_folder_without_a_checkpoint_has_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-7").mkdir()
    assert newest_intact_checkpoint(tmp_path) is None


# Changed data


def records(**files: str) -> dict[str, dict]:
    """Return the records of a run on files with these digests."""
    return {
        "run_config.json": {"seed": 0},
        "data.json": {"dataset": "data/mine", "config": "full", "files": files},
        "splits.json": {"sha256": "ab"},
    }


@pytest.mark.parametrize(
    ("files", "changed"),
    [
        ({"a": "1", "b": "3"}, "b"),  # overwritten
        ({"a": "1", "c": "2"}, "b and 1 more"),  # prepared again: file names contain a digest of the content
        ({"a": "1"}, "b"),
        ({"a": "1", "b": "2", "c": "3"}, "c"),
    ],
)
def test_a_run_is_not_resumed_with_changed_data(files: dict[str, str], changed: str, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    begin_run(run, records(a="1", b="2"), None)
    checkpoint = str(tmp_path / "checkpoint-7")
    begin_run(run, records(a="1", b="2"), checkpoint)
    with pytest.raises(ValueError, match=f"^dataset='data/mine': {changed} changed"):
        begin_run(run, records(**files), checkpoint)
    assert json.loads((tmp_path / "data.json").read_text())["files"] == {"a": "1", "b": "2"}


def test_a_run_without_a_record_of_its_data_is_resumed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_in(tmp_path)
    begin_run(run, records(a="1"), None)
    (tmp_path / "data.json").unlink()
    begin_run(run, records(a="2"), str(tmp_path / "checkpoint-7"))
    assert "data.json" in caplog.text
    assert (tmp_path / "data.json").exists()
