"""Read the columns of TuneIn's pickles, which are opened in a child process; see unpickling.py."""

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

PATIENCE = 24  # seconds of waiting for each second of processor time, on a busy machine
REMEDY = "Save it again as a dict of lists that hold numbers, text and numpy arrays"
# One thread, and freed memory goes back: it waits most of the time.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
ENVIRONMENT |= {"MALLOC_TRIM_THRESHOLD_": str(4 << 20), "MALLOC_MMAP_THRESHOLD_": str(4 << 20)}


class LegacyPickleError(ValueError):
    """A pickle that is damaged, too big, or holds something other than data; one line that names the file."""


class Entry(NamedTuple):
    """One entry of a column: frames of one width, or the defect that it has."""

    start: int  # of its numbers in the column's file
    frames: int
    width: int
    what: str = ""
    how_much: float | None = None

    def numbers(self, column: np.ndarray) -> np.ndarray:
        """Its numbers, flat, out of those of the column."""
        return column[self.start : self.start + self.frames * self.width]


class _Child:
    """The process that reads pickles, started when the first file comes; another one follows one that ended."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None

    def ask(self, question: dict, size: int) -> dict:
        """Send a question about a file of this size, and return the answer.

        Only processor time is a limit of the file. All else that ends a child may come from a busy machine: another
        child gets the question, once.
        """
        limit = most_seconds(size)
        with self.lock:
            answer = self._try(question, limit)
            if isinstance(answer, str):
                logger.warning("%s: its reader %s; it is read again", question["path"], answer)
                answer = self._try(question, limit)
        return {"refused": f"its reader {answer}, twice"} if isinstance(answer, str) else answer

    def _try(self, question: dict, limit: int) -> dict | str:
        """The answer, or how the child ended."""
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
            process.kill()  # its answer would be taken for that of the next question
            raise
        finally:
            watch.cancel()
        if line.endswith("\n"):
            return json.loads(line)
        code = process.wait()
        if code == -signal.SIGXCPU:
            return {"refused": f"its values would take more than {limit} s of processor time"}
        if late.is_set():
            return f"gave no answer within {PATIENCE * limit:g} s"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _start() -> subprocess.Popen:
    # -P keeps our modules from being taken for those of libraries. Ctrl-C is for this process, not for the child.
    words = [sys.executable, "-P", unpickling.__file__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(words, **pipes, text=True, env=os.environ | ENVIRONMENT, process_group=0)


_child = _Child()


def _forget() -> None:
    global _child
    _child = _Child()


os.register_at_fork(after_in_child=_forget)  # a forked process asks a child of its own


def unpickle_columns(
    path: Path, name: str, ids: str, columns: dict[str, Path]
) -> tuple[list[str], dict[str, list[Entry]]]:
    """The ids in a pickled dict, and the entries of its columns, whose numbers go into a .npy file each.

    LegacyPickleError says why a file cannot be used; `name` is how it calls the file.
    """
    targets = {column: str(target) for column, target in columns.items()}
    answer = _child.ask({"path": str(path), "ids": ids, "columns": targets}, path.stat().st_size)
    if "failed" in answer:
        raise FetchError(
            f"{answer['failed']}: {name} cannot be read. Free space there, or set TMPDIR to another folder"
        )
    if "refused" in answer:
        raise LegacyPickleError(f"{name}: {answer['refused']}. {REMEDY}")
    return answer["ids"], {column: _entries(found) for column, found in answer["columns"].items()}


def _entries(found: list[list]) -> list[Entry]:
    entries, start = [], 0
    for first, second in found:
        if isinstance(first, str):
            entries.append(Entry(start, 0, 0, first, second))
        else:
            entries.append(Entry(start, first, second))
            start += first * second
    return entries


def map_numbers(path: Path) -> np.ndarray:
    """The numbers of a column, (n,) float32; they stay where they are until they are used."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
