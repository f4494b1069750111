"""Settings of a process: the memory that malloc keeps, and a clean end on SIGTERM."""

import ctypes
import os
import signal
import sys
from typing import Any

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


def exit_on_sigterm() -> None:
    """Let SIGTERM end the program as Ctrl-C does, so that exit handlers run; for a program's first lines."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
