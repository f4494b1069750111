"""Settings of a process: memory of malloc, and one-line errors."""

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

# Options of mallopt(3): free bytes at the top of the heap before they are returned to the system, size from which a
# block gets its own pages (at most 2^25), and the number of heaps for threads.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
BIG_BLOCK = 4 << 20  # bytes


def keep_freed_memory() -> None:
    """Let the C library keep memory that a training step frees, for the next step."""
    # By default glibc returns it to the system, and every step pays for new pages: a fifth of the time of a small
    # model on a CPU.
    _set({M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_THRESHOLD: 2**25})


def return_freed_memory() -> None:
    """Return freed memory to the system, also that of Arrow. Call this before Arrow is imported."""
    # Arrow's own allocator keeps freed memory. Arrow chooses its allocator on import; child processes inherit the
    # variable. glibc by default raises its threshold to the largest block that was freed. Later blocks then come from
    # heaps, one per thread, with holes that are never returned.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    _set({M_TRIM_THRESHOLD: BIG_BLOCK, M_MMAP_THRESHOLD: BIG_BLOCK, M_ARENA_MAX: 1})


def _set(options: dict[int, int]) -> None:
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        # musl has no mallopt and always returns memory.
        for option, value in options.items():
            mallopt(option, value)


# Errors that a user can cause. They end a program with one line instead of a traceback.
EXPECTED = (ValueError, OSError, ImportError, RuntimeError, TypeError, KeyError, MemoryError)
INTERRUPTED = 128 + signal.SIGINT  # exit code


def end_imports_quietly() -> None:
    """Let errors and Ctrl-C during a program's imports, which take seconds, end it with one line."""

    def end(error_type: type[BaseException], error: BaseException, where: Any) -> None:
        if issubclass(error_type, KeyboardInterrupt):
            sys.stderr.write(f"{Path(sys.argv[0]).name}: stopped\n")
            sys.stderr.flush()
            os._exit(INTERRUPTED)  # skips cleanup of modules that are half imported
        if os.environ.get("FELTSOUND_TRACEBACK"):
            sys.__excepthook__(error_type, error, where)
        else:
            sys.stderr.write(f"{Path(sys.argv[0]).name}: {unexpected(error)}\n")

    sys.excepthook = end


def parse_before_imports(read: Callable[[list[str]], Any], program: str = "") -> None:
    """Parse the command line before a program's slow imports, so that --help and mistakes end it at once."""
    end_imports_quietly()
    with one_line_errors(program):
        read(sys.argv[1:])


@contextlib.contextmanager
def one_line_errors(program: str = "", stopped: str = "stopped") -> Iterator[None]:
    """End a program with one line without secrets. FELTSOUND_TRACEBACK=1 shows the traceback.

    SIGTERM and Ctrl-C end it after its cleanup, with exit codes 143 and 130. `stopped` is the line for Ctrl-C. Logged
    messages, and anything that libraries write to stderr, are masked too.
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
            gc.collect()  # closes progress bars, which would otherwise write after the last line
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
    """Return whether a user can cause the error. transformers checks configs with an error that is no ValueError."""
    # Imported here, because this module is imported before all libraries.
    from huggingface_hub.errors import StrictDataclassError

    return isinstance(error, (*EXPECTED, StrictDataclassError))


def one_line(message: Any) -> str:
    """Return a message in one line, without secrets."""
    return mask_secrets(" ".join(str(message).split()))


def unexpected(error: BaseException) -> str:
    """Describe an error that is not a mistake in the input, in one line."""
    message = one_line(error)
    return f"{type(error).__name__}{message and ': '}{message} (FELTSOUND_TRACEBACK=1 shows where)"


def exit_on_sigterm() -> None:
    """Let SIGTERM end the program like Ctrl-C, so that exit handlers run."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


class MaskedRecord(logging.LogRecord):
    """A logged message without secrets."""

    def getMessage(self) -> str:
        return mask_secrets(super().getMessage())


class MaskedStream:
    """A text stream that masks secrets, for messages of libraries such as argparse."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(mask_secrets(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
