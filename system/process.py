"""Settings of a process: the memory that malloc keeps, and an end in one line for every error."""

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from system.text import mask_secrets

# Of malloc.h: from how many bytes free memory at the top goes back, and a block gets pages of its own (at most 2^25);
# and how many heaps there are for the threads.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
BIG_BLOCK = 4 << 20  # bytes


def keep_freed_memory() -> None:
    """Let the C library keep the memory that a training step frees, for the next step to use again.

    By default glibc hands it back, and every step pays for fresh pages: a fifth of a small model's time on a CPU.
    """
    _set({M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_THRESHOLD: 2**25})


def give_back_freed_memory() -> None:
    """Have the C library hand back what is freed, and Arrow take memory of it: what is needed at once is what is held.

    By itself glibc raises its threshold with the largest block that was freed, and later ones come from heaps with
    holes, one a thread; Arrow's own allocator keeps for itself what it had. To be called before Arrow is imported,
    which chooses its allocator then. Programs that are started by this one do as it does.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    _set({M_TRIM_THRESHOLD: BIG_BLOCK, M_MMAP_THRESHOLD: BIG_BLOCK, M_ARENA_MAX: 1})


def _set(options: dict[int, int]) -> None:
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        # musl has no mallopt, and no such habits.
        for option, value in options.items():
            mallopt(option, value)


EXPECTED = (ValueError, OSError, ImportError, RuntimeError, TypeError, KeyError, MemoryError)  # what a user can cause
INTERRUPTED = 128 + signal.SIGINT  # exit code


def end_imports_quietly() -> None:
    """Let a program end in one line while it still imports what it needs, which takes seconds and memory."""

    def end(kind: type[BaseException], error: BaseException, where: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write(f"{Path(sys.argv[0]).name}: stopped\n")
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        if os.environ.get("FELTSOUND_TRACEBACK"):
            sys.__excepthook__(kind, error, where)
        else:
            sys.stderr.write(f"{Path(sys.argv[0]).name}: {unexpected(error)}\n")

    sys.excepthook = end


def answer_at_once(read: Callable[[list[str]], Any], program: str = "") -> None:
    """Read the command line before the imports of a program, which take seconds: help and mistakes end it here."""
    end_imports_quietly()
    with one_line_errors(program):
        read(sys.argv[1:])


@contextlib.contextmanager
def one_line_errors(program: str = "", stopped: str = "stopped") -> Iterator[None]:
    """End a program with one line, in which no secret is; FELTSOUND_TRACEBACK=1 shows where the error arose.

    SIGTERM and Ctrl-C end it after its clean-up, with 143 and 130; `stopped` says what Ctrl-C leaves. Logged
    messages, and what libraries write to stderr, hold no secret either.
    """
    program = program or Path(sys.argv[0]).name
    if threading.current_thread() is threading.main_thread():
        exit_on_sigterm()
    logging.setLogRecordFactory(MaskedRecord)
    with contextlib.redirect_stderr(cast(TextIO, MaskedStream(sys.stderr))):
        try:
            yield
        except KeyboardInterrupt as error:
            traceback.clear_frames(error.__traceback__)
            gc.collect()  # closes progress bars, which would write after the last line
            sys.stderr.write(f"{program}: {stopped}\n")
            raise SystemExit(INTERRUPTED) from None
        except SystemExit as error:
            error.code = one_line(error.code) if isinstance(error.code, str) else error.code
            raise
        except Exception as error:
            if os.environ.get("FELTSOUND_TRACEBACK") or not is_expected(error):
                traceback.print_exc()
                raise SystemExit(1) from error
            message = one_line(error) if isinstance(error, ValueError) else unexpected(error)
            raise SystemExit(f"{program}: {message}") from error


def is_expected(error: Exception) -> bool:
    """Whether a user can cause an error; transformers checks configs by an error of its own that is no ValueError."""
    from huggingface_hub.errors import StrictDataclassError  # here, for this module is imported before all libraries

    return isinstance(error, (*EXPECTED, StrictDataclassError))


def one_line(said: Any) -> str:
    """A message in one line, without secrets."""
    return mask_secrets(" ".join(str(said).split()))


def unexpected(error: BaseException) -> str:
    """An error that is no mistake in what was given, in one line."""
    said = one_line(error)
    return f"{type(error).__name__}{said and ': '}{said} (FELTSOUND_TRACEBACK=1 shows where)"


def exit_on_sigterm() -> None:
    """Let SIGTERM end the program as Ctrl-C does, so that exit handlers run."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


class MaskedRecord(logging.LogRecord):
    """A logged message without secrets."""

    def getMessage(self) -> str:
        return mask_secrets(super().getMessage())


class MaskedStream:
    """A text stream to which no secret is written: for messages of libraries, such as those of argparse."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(mask_secrets(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
