"""Inspect the machine: check that torch, torchvision and torchaudio fit together, and count the usable cores."""

import os
import sys
from importlib import metadata

# Versions known to work together, newest first. The key order is the import order, which `torch_mismatch` relies on.
TRIPLES = (
    {"torch": "2.14.1", "torchaudio": "2.11.1", "torchvision": "0.29.1"},
    {"torch": "2.12.1", "torchaudio": "2.11.0", "torchvision": "0.27.1"},
)

SPARE_LOAD = 0.5  # load (threads) of background programs that does not count as a busy machine

# Messages of the dynamic loader, the C library and Python when a memory limit is too low.
NO_MEMORY = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory", "can't start new thread")


def torch_mismatch() -> str | None:
    """Return an error message with an install command if torch, torchvision and torchaudio do not fit, else None."""
    # A torchvision or torchaudio built for another torch or CUDA fails only on import, deep inside `from transformers
    # import Trainer`, with a message about a missing operator or library. So try the imports here and explain.
    try:
        import torch  # noqa: F401
        import torchaudio  # noqa: F401
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError, MemoryError) as error:
        lines = [line.strip() for line in str(error).splitlines() if any(sign in line for sign in NO_MEMORY)]
        if lines or isinstance(error, MemoryError):
            reason = lines[0] if lines else "MemoryError"
            return f"not enough memory to load torch ({reason}). Raise the limit (ulimit -v), or free memory."
        name = next(name for name in TRIPLES[0] if name not in sys.modules)  # Python drops a module whose import fails
        installed = ", ".join(f"{name} {version(name)}" for name in TRIPLES[0])
        reason = str(error).strip().splitlines()[0]
        return f"{name} does not fit the other packages ({installed}): {reason}. Run: {remedy(name)}"
    return None


def remedy(failed: str) -> str:
    """Return a pip command for packages that fit the installed torch, or for all three if torch is the problem."""
    torch, _, build = version("torch").partition("+")
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    matching = next((triple for triple in TRIPLES if triple["torch"] == torch), None)
    if matching is None or failed == "torch":
        packages = " ".join(f"{name}=={number}" for name, number in (matching or TRIPLES[0]).items())
        # Only the CPU index is known to have every version of torch; a CUDA index has those built for that CUDA.
        return f"pip install {packages}{index if build == 'cpu' else ''}"
    partners = " ".join(f"{name}=={number}" for name, number in matching.items() if name != "torch")
    # --force-reinstall: the right version may already be installed, but built for another CUDA.
    return f"pip install --force-reinstall --no-deps {partners}{index}"


def version(package: str) -> str:
    """Return the installed version of a package, or "missing"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def versions() -> dict[str, str]:
    """Return the installed versions of all packages that can change a result, for metrics.json."""
    packages = (
        "torch", "torchaudio", "torchvision", "transformers", "datasets", "accelerate", "librosa", "scikit-learn",
        "scipy", "numpy", "soxr", "soundfile", "av",
    )  # fmt: skip
    return {package: version(package) for package in ("feltsound", *packages)}


def threads_for_this_process() -> int | None:
    """Return the number of threads for torch: cores divided by the processes of this run on this host.

    Returns None, which leaves torch's own choice, if the user has set OMP_NUM_THREADS.
    """
    chosen = os.environ.get("OMP_NUM_THREADS")
    # `accelerate launch` without a config sets OMP_NUM_THREADS=1 for its children, so 1 is not a choice there.
    set_by_accelerate = chosen == "1" and "ACCELERATE_MIXED_PRECISION" in os.environ
    if chosen is not None and not set_by_accelerate:
        return None
    return max(1, available_cores() // processes_of_this_host())


def processes_of_this_host() -> int:
    """Return the number of processes of this run on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cores_are_contended(own: int) -> bool:
    """Return whether other programs compete for the cores.

    Args:
        own: threads and processes of this run.
    """
    cores = available_cores()
    # The load average covers all cores, so it says nothing if this process may use only some of them.
    return cores == os.cpu_count() and os.getloadavg()[0] > max(cores, own) + SPARE_LOAD


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
