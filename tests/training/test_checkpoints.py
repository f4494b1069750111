"""The folder of a run that trains: one writer, no leftovers, and the newest checkpoint that can be read."""

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
from training.checkpoints import damage, last_whole_checkpoint, only_training
from training.run_folder import begin_run, checkpoint_to_resume
from training.task import Run

FORK = multiprocessing.get_context("fork")


def run_in(folder: Path, *more: str) -> Run:
    """A run of that folder."""
    return parse_run(["--output_dir", str(folder), "--use_cpu", "true", *more])


# The lock


def hold(folder: Path, held: Event) -> None:
    """Train in a folder for ever, with a worker that outlives this process."""
    with only_training(run_in(folder).training):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        held.set()
        time.sleep(600)


@pytest.mark.slow
def test_one_program_trains_in_a_folder_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    held = FORK.Event()
    first = FORK.Process(target=hold, args=(folder, held))
    first.start()
    assert held.wait(600)
    with pytest.raises(ValueError, match=f"output_dir={folder}: "), only_training(run_in(folder).training):
        pass
    with only_training(run_in(tmp_path / "other").training):
        pass
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    with only_training(run_in(folder).training):
        pass


def test_leftovers_of_killed_runs_go_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left = [".saving-a1b2/model.safetensors", ".metrics.json.part", "checkpoint-7/.mining.npz.part"]
    kept = ["checkpoint-7/model.safetensors", "runs/events", "notes.part", "model.safetensors"]
    for name in left + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with only_training(run_in(tmp_path).training):
        files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {*kept, ".training.lock"}
    assert not (tmp_path / ".saving-a1b2").exists()
    assert all(any(name.removesuffix("/model.safetensors") in line for line in caplog.messages) for name in left)


# Damage


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unfinished run, with the checkpoints 2 and 4."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_trainer(folder, save_total_limit=None).train()
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def cut(content: bytes) -> bytes:
    """The first half."""
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    """Another bit in a value: the last byte that is followed by no padding, or one of a pickle."""
    place = content.find(b"data.pkl") + 200 if content.startswith(b"PK") else len(content) - 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def misnumber(content: bytes) -> bytes:
    """Another bit in what no checksum covers: the number of files in a zip, as ZIP64 has it."""
    place = content.rfind(b"PK\x06\x06") + 32
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def zero(content: bytes) -> bytes:
    """Zeros of the same size, as a power cut may leave."""
    return bytes(len(content))


def latin(content: bytes) -> bytes:
    """Not UTF-8."""
    return content.replace(b'"epoch"', b'"\xe9poch"')


STATES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.mark.parametrize(
    ("name", "harm"),
    [(name, harm) for name in STATES for harm in (cut, flip, zero)]
    + [(name, misnumber) for name in STATES[1:]]
    + [("trainer_state.json", harm) for harm in (cut, zero, latin)],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    name: str, harm: Callable[[bytes], bytes], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder / "checkpoint-4" / name
    file.write_bytes(harm(file.read_bytes()))
    assert checkpoint_to_resume(run_in(folder, "--resume_from_checkpoint", "true")) == str(folder / "checkpoint-2")
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("training")]
    assert "checkpoint-4" in line
    assert name in line
    assert "\n" not in line
    with pytest.raises(ValueError, match=name):  # one that is asked for by name is not replaced by another
        checkpoint_to_resume(run_in(folder, "--resume_from_checkpoint", str(file.parent)))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"])
def test_a_checkpoint_that_lacks_a_file_is_passed_over(name: str, folder: Path) -> None:
    (folder / "checkpoint-4" / name).unlink()
    assert name in damage(folder / "checkpoint-4")
    assert last_whole_checkpoint(folder) == folder / "checkpoint-2"


def test_a_whole_checkpoint_is_taken_also_one_of_an_older_version(folder: Path) -> None:
    assert last_whole_checkpoint(folder) == folder / "checkpoint-4"
    (folder / "checkpoint-4/model.safetensors.sha256").unlink()
    assert last_whole_checkpoint(folder) == folder / "checkpoint-4"


def test_a_folder_without_a_checkpoint_has_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-7").mkdir()
    assert last_whole_checkpoint(tmp_path) is None


# The data


def records(**files: str) -> dict[str, dict]:
    """What a run on these files notes."""
    return {
        "run_config.json": {"seed": 0},
        "data.json": {"dataset": "data/mine", "config": "full", "files": files},
        "splits.json": {"sha256": "ab"},
    }


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"a": "1", "b": "3"}, "b"),  # written again under its old name
        ({"a": "1", "c": "2"}, "b and 1 more"),  # prepared again: its name holds another digest
        ({"a": "1"}, "b"),
        ({"a": "1", "b": "2", "c": "3"}, "c"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(files: dict[str, str], named: str, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    begin_run(run, records(a="1", b="2"), None)
    checkpoint = str(tmp_path / "checkpoint-7")
    begin_run(run, records(a="1", b="2"), checkpoint)
    with pytest.raises(ValueError, match=f"^dataset=data/mine: {named} changed"):
        begin_run(run, records(**files), checkpoint)
    assert json.loads((tmp_path / "data.json").read_text())["files"] == {"a": "1", "b": "2"}


def test_a_run_of_an_older_version_goes_on_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_in(tmp_path)
    begin_run(run, records(a="1"), None)
    (tmp_path / "data.json").unlink()
    begin_run(run, records(a="2"), str(tmp_path / "checkpoint-7"))
    assert "data.json" in caplog.text
    assert (tmp_path / "data.json").exists()
