"""Read the columns of TuneIn's pickles. A child process opens them, since a pickle can run code; see unpickling.py."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..raw_files import FetchError
from . import unpickling
from .unpickling import most_seconds

logger = logging.getLogger(__name__)

PATIENCE = 24  # s of waiting per s of the CPU limit; on a busy machine the child gets a small share of a core
REMEDY = "Save it again as a dict of lists of numbers, text and numpy arrays"
# The child waits most of the time, so it should hold little: one thread, and freed memory returns to the system.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
ENVIRONMENT |= {"MALLOC_TRIM_THRESHOLD_": str(4 << 20), "MALLOC_MMAP_THRESHOLD_": str(4 << 20)}


class LegacyPickleError(ValueError):
    """A pickle that is damaged, too large, or contains something other than data. The message names the file."""


class Entry(NamedTuple):
    """An entry of a column: its frames, or the defect that it has."""

    start: int  # index of its first number in the column
    frames: int
    width: int  # numbers per frame
    what: str = ""  # kind of defect; empty if the entry is usable
    how_much: float | None = None

    def numbers(self, column: np.ndarray) -> np.ndarray:
        """Return the entry's numbers (frames * width,), a view of the column's numbers."""
        return column[self.start : self.start + self.frames * self.width]


class _Child:
    """The process that reads pickles. It is started for the first file, and again after it ended."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None

    def ask(self, question: dict, size: int) -> dict:
        """Send a request about a file of `size` bytes, and return the answer.

        A second child retries the request once if the first one ended without an answer.
        """
        # Only the CPU limit proves that the file is the reason. A child that was killed or is slow may just as well be
        # the victim of a busy machine, hence the retry.
        limit = most_seconds(size)
        with self.lock:
            answer = self._try(question, limit)
            if isinstance(answer, str):
                logger.warning("%s: its reader %s. Trying once more.", question["path"], answer)
                answer = self._try(question, limit)
        return {"refused": f"its reader {answer}, twice"} if isinstance(answer, str) else answer

    def _try(self, question: dict, limit: int) -> dict | str:
        """Return the answer, or how the child ended (str)."""
        process = self.process
        if process is None or process.poll() is not None:
            process = self.process = _start()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()
        watch = threading.Timer(PATIENCE * limit, lambda: (late.set(), process.kill()))
        watch.start()
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:
            process.kill()  # otherwise the next request would read the answer to this one
            raise
        finally:
            watch.cancel()
        if line.endswith("\n"):
            return json.loads(line)
        code = process.wait()
        if code == -signal.SIGXCPU:
            return {"refused": f"its values would need more than {limit} s of CPU time"}
        if late.is_set():
            return f"gave no answer within {PATIENCE * limit:g} s"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _start() -> subprocess.Popen:
    # -P keeps this folder off sys.path, where our modules could shadow those of libraries. A process group of its own
    # keeps Ctrl-C from the child: this process decides when it ends.
    command = [sys.executable, "-P", unpickling.__file__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, env=os.environ | ENVIRONMENT, process_group=0)


_child = _Child()


def _replace_child() -> None:
    global _child
    _child = _Child()


# A forked process must not share the pipes of its parent's child: answers would go to the wrong process.
os.register_at_fork(after_in_child=_replace_child)


def unpickle_columns(
    path: Path, name: str, ids: str, columns: dict[str, Path]
) -> tuple[list[str], dict[str, list[Entry]]]:
    """Read a pickled dict of lists: return the ids, and the entries of each column.

    Args:
        path: the pickle, a local file.
        name: how errors call the file.
        ids: key of the list of ids.
        columns: keys of the other lists, with the .npy file that gets the column's numbers.

    Raises:
        LegacyPickleError: the file is not usable.
        FetchError: the .npy file could not be written.
    """
    targets = {column: str(target) for column, target in columns.items()}
    answer = _child.ask({"path": str(path), "ids": ids, "columns": targets}, path.stat().st_size)
    if "failed" in answer:
        raise FetchError(
            f"{answer['failed']}: {name} cannot be read. Free space there, or set TMPDIR to another folder."
        )
    if "refused" in answer:
        raise LegacyPickleError(f"{name}: {answer['refused']}. {REMEDY}.")
    return answer["ids"], {column: _entries(pairs) for column, pairs in answer["columns"].items()}


def _entries(pairs: list[list]) -> list[Entry]:
    """Parse [frames, width] or [defect, how much] pairs."""
    entries, start = [], 0
    for first, second in pairs:
        if isinstance(first, str):
            entries.append(Entry(start, 0, 0, first, second))
        else:
            entries.append(Entry(start, first, second))
            start += first * second
    return entries


def map_numbers(path: Path) -> np.ndarray:
    """Memory-map the numbers of a column, (n,) float32."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
