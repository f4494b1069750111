"""What the C library does with memory that is freed: keeps it for what comes next, or gives it back at once."""

import ctypes
import sys

import pyarrow as pa

# Of malloc.h: from how many bytes free memory at the top goes back, and a block gets pages of its own (at most 2^25).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
BIG_BLOCK = 4 << 20  # bytes


def keep_freed_memory() -> None:
    """Let the C library keep the memory that a training step frees, for the next step to use again.

    By default glibc hands it back, and every step pays for fresh pages: a fifth of a small model's time on a CPU.
    """
    set_thresholds(trim=2**31 - 1, mmap=2**25)


def give_back_freed_memory() -> None:
    """Have the C library hand back what is freed, and Arrow take memory of it: what is needed at once is what is held.

    By itself glibc raises its threshold with the largest block that was freed, and later ones come from heaps with
    holes, one a thread; Arrow's own allocator keeps for itself what it had.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    set_thresholds(trim=BIG_BLOCK, mmap=BIG_BLOCK)


def set_thresholds(trim: int, mmap: int) -> None:
    """The C library's thresholds, in bytes."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        # musl has no mallopt, and no such habits.
        mallopt(M_TRIM_THRESHOLD, trim)
        mallopt(M_MMAP_THRESHOLD, mmap)
