"""Guard the folder of a training run: lock it, remove leftovers of killed runs, and skip damaged checkpoints."""

import contextlib
import hashlib
import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from safetensors import safe_open
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from system.text import reason_of
from training.trainer_arguments import RunTrainingArguments

logger = logging.getLogger(__name__)

Decision = TypeVar("Decision")

LOCK = ".training.lock"
LEFTOVERS = (".saving-*", ".*.part", "checkpoint-*/.*.part")  # unfinished files of killed runs
STATE = "trainer_state.json"  # Trainer writes this file last, so its presence marks a complete checkpoint
REQUIRED_FILES = (STATE, SAFE_WEIGHTS_NAME, "optimizer.pt", "scheduler.pt")  # to resume from a checkpoint
DIGEST = f"{SAFE_WEIGHTS_NAME}.sha256"  # safetensors files have no checksum of their own


def decide_on_main(training: RunTrainingArguments, decide: Callable[[], Decision]) -> Decision:
    """Call `decide` on the main process only, and return its result, or raise its error, on all processes."""
    decision: list = [None, None]
    if training.process_index == 0:
        # An error must reach the other processes, which would otherwise wait for the broadcast until it times out.
        try:
            decision[0] = decide()
        except (ValueError, OSError) as error:
            decision[1] = error
    value, error = broadcast_object_list(decision)  # from process 0
    if error is not None:
        raise error
    return value


@contextlib.contextmanager
def lock_run_folder(training: RunTrainingArguments) -> Iterator[None]:
    """Lock the output folder against other training runs, and remove leftovers of killed ones.

    Raises ValueError if another run holds the lock.
    """
    folder = Path(str(training.output_dir))
    # A lock of the operating system, which is released even if this process is killed.
    lock = FileLock(folder / LOCK)

    def acquire() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"output_dir={folder}: another run is training there. Wait for its end, or give another --output_dir."
            ) from error
        remove_leftovers(folder)

    decide_on_main(training, acquire)
    try:
        yield
    finally:
        lock.release()


def is_checkpoint(model: str) -> bool:
    """Return whether this is a `checkpoint-N` folder of a run."""
    return (Path(model) / STATE).is_file()


def remove_leftovers(folder: Path) -> None:
    for path in [path for pattern in LEFTOVERS for path in folder.glob(pattern)]:
        logger.warning("%s: removing %s, left behind by a killed run", folder, path.relative_to(folder))
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def newest_intact_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that can be read, or None. Log a warning for each newer, damaged one."""
    checkpoints = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-[0-9]*") if path.is_dir()]
    # Sort by number: as text, checkpoint-9 would come after checkpoint-10.
    for path in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        problem = find_damage(path)
        if problem is None:
            return path
        logger.warning("skipping %s: %s", path, problem)
    return None


def find_damage(checkpoint: Path) -> str | None:
    """Describe the first missing or unreadable file of a checkpoint; return None if there is none."""
    for name in REQUIRED_FILES:
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    for file in sorted(checkpoint.iterdir()):
        try:
            CHECKS.get(file.suffix, skip_file)(file)
        except Exception as error:  # the libraries raise many exception types on damaged bytes
            return f"{file.name} cannot be read ({type(error).__name__}: {reason_of(error)})"
    return None


def check_json(file: Path) -> None:
    json.loads(file.read_text(encoding="utf-8"))


def check_zip(file: Path) -> None:
    """Verify the checksums of a file written by torch.save or numpy.savez."""
    with zipfile.ZipFile(file) as archive:
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {bad} differs")


def check_state(file: Path) -> None:
    """Verify the checksums of a torch file, then load it."""
    check_zip(file)
    # Loading is needed too: the zip directory, which torch reads, is not covered by the checksums.
    with safe_globals():
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def check_weights(file: Path) -> None:
    """Verify the header and size of a safetensors file, and its SHA-256 if one was written."""
    with safe_open(file, "pt"):
        pass
    digest = file.with_name(DIGEST)
    if digest.exists() and digest.read_text(encoding="utf-8") != sha256_of(file):
        raise ValueError(f"it differs from {DIGEST}")


def skip_file(file: Path) -> None:
    """Accept a file that resuming does not read."""


# File suffix -> check. It reads the file, and raises any exception if the file is damaged.
CHECKS: dict[str, Callable[[Path], None]] = {
    ".json": check_json, ".safetensors": check_weights, ".pt": check_state, ".pth": check_state, ".npz": check_zip
}  # fmt: skip


def sha256_of(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_digest(checkpoint: Path) -> None:
    """Write the SHA-256 of the weights next to them."""
    (checkpoint / DIGEST).write_text(sha256_of(checkpoint / SAFE_WEIGHTS_NAME), encoding="utf-8")
