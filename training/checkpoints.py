"""The folder of a run that trains: one program writes there, what killed ones left is removed, and checkpoints that
cannot be read are passed over."""

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
LEFTOVERS = (".saving-*", ".*.part", "checkpoint-*/.*.part")  # of killed runs
STATE = "trainer_state.json"  # Trainer writes it last
NEEDED = (STATE, SAFE_WEIGHTS_NAME, "optimizer.pt", "scheduler.pt")  # to resume from a checkpoint
DIGEST = f"{SAFE_WEIGHTS_NAME}.sha256"  # next to the weights, whose own format has no checksum


def decided_by_main(training: RunTrainingArguments, decide: Callable[[], Decision]) -> Decision:
    """Return in every process what `decide` returns in the main one; its error ends all of them."""
    decision: list = [None, None]
    if training.process_index == 0:
        try:
            decision[0] = decide()
        except (ValueError, OSError) as error:
            decision[1] = error
    value, error = broadcast_object_list(decision)
    if error is not None:
        raise error
    return value


@contextlib.contextmanager
def only_training(training: RunTrainingArguments) -> Iterator[None]:
    """Refuse a folder in which another program trains, and remove what killed ones left there.

    The operating system gives the lock back when the main process ends, in any way.
    """
    folder = Path(str(training.output_dir))
    lock = FileLock(folder / LOCK)

    def take() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"output_dir={folder}: another training writes there. Wait for its end, or name another --output_dir."
            ) from error
        remove_leftovers(folder)

    decided_by_main(training, take)
    try:
        yield
    finally:
        lock.release()


def is_checkpoint(model: str) -> bool:
    """Whether a model is a `checkpoint-N` folder inside a run's."""
    return (Path(model) / STATE).is_file()


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of runs that were killed."""
    for path in [path for pattern in LEFTOVERS for path in folder.glob(pattern)]:
        logger.warning("%s: removing %s, which a killed run left", folder, path.relative_to(folder))
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that can be read; a warning names each newer one, the file and the reason."""
    checkpoints = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-[0-9]*") if path.is_dir()]
    for path in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        problem = damage(path)
        if problem is None:
            return path
        logger.warning("%s is passed over: %s", path, problem)
    return None


def damage(checkpoint: Path) -> str | None:
    """The first file of a checkpoint that is missing or cannot be read, and the reason; None for a whole one."""
    for name in NEEDED:
        if not (checkpoint / name).is_file():
            return f"it has no {name}"
    for file in sorted(checkpoint.iterdir()):
        try:
            READERS.get(file.suffix, unread)(file)
        except Exception as error:  # readers raise any kind on damaged bytes
            return f"{file.name} cannot be read ({type(error).__name__}: {reason_of(error)})"
    return None


def read_json(file: Path) -> None:
    """Read JSON; an error when it is cut or not UTF-8."""
    json.loads(file.read_text(encoding="utf-8"))


def read_zip(file: Path) -> None:
    """Compare a file of torch.save or numpy.savez with its checksums."""
    with zipfile.ZipFile(file) as archive:
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {bad} differs")


def read_state(file: Path) -> None:
    """Read a file as Trainer does, which looks at parts of a zip that have no checksum, but at no checksums."""
    read_zip(file)
    with safe_globals():
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def read_weights(file: Path) -> None:
    """Compare weights with their sizes, and with the digest that was written with them."""
    with safe_open(file, "pt"):
        pass
    noted = file.with_name(DIGEST)
    if noted.exists() and noted.read_text(encoding="utf-8") != sha256_of(file):
        raise ValueError(f"it differs from {DIGEST}")


def unread(file: Path) -> None:
    """Resuming reads no file of this kind."""


READERS: dict[str, Callable[[Path], None]] = {
    ".json": read_json, ".safetensors": read_weights, ".pt": read_state, ".pth": read_state, ".npz": read_zip
}  # fmt: skip


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def note_digest(checkpoint: Path) -> None:
    """Write the digest of the weights next to them."""
    (checkpoint / DIGEST).write_text(sha256_of(checkpoint / SAFE_WEIGHTS_NAME), encoding="utf-8")
