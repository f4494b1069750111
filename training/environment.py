"""The machine a run finds: whether torch and its companions fit together, its share of the cores, its memory."""

import ctypes
import importlib
import os
import sys
from importlib import metadata

# Of malloc.h: from how many bytes free memory at the top goes back, and a block gets pages of its own (at most 2^25).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
INSTALL = "pip install 'torch>=2.11,<2.13' 'torchvision>=0.26,<0.28' 'torchaudio==2.11.0'"


def torch_mismatch() -> str | None:
    """What is wrong between torch, torchvision and torchaudio, and what to install; None when they fit.

    A torchvision built for another torch, or for another CUDA, fails only when it is imported, deep inside
    `from transformers import Trainer`, with a message about a missing operator.
    """
    try:
        for name in ("torch", "torchvision", "torchaudio"):
            importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        found = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "torchaudio"))
        reason = str(error).strip().splitlines()[0]
        return f"{name} does not load beside the others ({found}): {reason}. Install a triple that fits: {INSTALL}"
    return None


def version(package: str) -> str:
    """The installed version of a package, or 'missing'."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def versions() -> dict[str, str]:
    """Versions of what a result depends on, for the record beside a model."""
    packages = (
        "torch", "torchaudio", "torchvision", "transformers", "datasets", "accelerate", "librosa", "scikit-learn",
        "scipy", "numpy", "soxr",
    )  # fmt: skip
    return {package: version(package) for package in ("feltsound", *packages)}


def keep_freed_memory() -> None:
    """Let the C library keep the memory that a training step frees, for the next step to use again.

    By default glibc hands it back, and every step pays for fresh pages: a fifth of a small model's time on a CPU.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        # musl has no mallopt, and no such habit.
        if mallopt := getattr(libc, "mallopt", None):
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(M_MMAP_THRESHOLD, 2**25)


def threads_for_this_process() -> int | None:
    """How many threads torch should take: the cores divided by the processes on this host.

    None leaves torch alone, because the user chose with OMP_NUM_THREADS. `accelerate launch` without a config sets it
    to 1 for its children, which is nobody's choice; there only another value counts as chosen.
    """
    chosen = os.environ.get("OMP_NUM_THREADS")
    set_by_accelerate = chosen == "1" and "ACCELERATE_MIXED_PRECISION" in os.environ
    if chosen is not None and not set_by_accelerate:
        return None
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores // processes)
