"""The machine a run finds: whether torch and its companions fit together, its share of the cores."""

import os
import sys
from importlib import metadata

# Versions known to work together, the newest first; each in the order in which the packages are imported.
TRIPLES = (
    {"torch": "2.14.1", "torchaudio": "2.11.1", "torchvision": "0.29.1"},
    {"torch": "2.12.1", "torchaudio": "2.11.0", "torchvision": "0.27.1"},
)

SPARE_LOAD = 0.5  # threads and processes

# What the loader, the C library and Python say where a limit leaves them too little memory.
NO_MEMORY = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory", "can't start new thread")


def torch_mismatch() -> str | None:
    """What is wrong between torch, torchvision and torchaudio, and what to install; None when they fit.

    A torchvision or torchaudio built for another torch, or for another CUDA, fails only when it is imported, deep
    inside `from transformers import Trainer`, with a message about a missing operator or library.
    """
    try:
        import torch  # noqa: F401
        import torchaudio  # noqa: F401
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError, MemoryError) as error:
        lines = [line.strip() for line in str(error).splitlines() if any(sign in line for sign in NO_MEMORY)]
        if lines or isinstance(error, MemoryError):
            reason = lines[0] if lines else "MemoryError"
            return f"no memory is left to load torch ({reason}). Raise the limit (ulimit -v), or free memory."
        name = next(name for name in TRIPLES[0] if name not in sys.modules)  # a failed import leaves nothing there
        found = ", ".join(f"{name} {version(name)}" for name in TRIPLES[0])
        reason = str(error).strip().splitlines()[0]
        return f"{name} does not load next to the others ({found}): {reason}. Install what fits: {remedy(name)}"
    return None


def remedy(failed: str) -> str:
    """The command that installs the partners of this torch, or a whole triple where torch itself is the problem."""
    torch, _, build = version("torch").partition("+")
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    fitting = next((triple for triple in TRIPLES if triple["torch"] == torch), None)
    if fitting is None or failed == "torch":
        whole = " ".join(f"{name}=={number}" for name, number in (fitting or TRIPLES[0]).items())
        return f"pip install {whole}{index if build == 'cpu' else ''}"  # not each build for CUDA is of each torch
    partners = " ".join(f"{name}=={number}" for name, number in fitting.items() if name != "torch")
    # Forced, as a partner of the right version can be built for another CUDA, or for none.
    return f"pip install --force-reinstall --no-deps {partners}{index}"


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
        "scipy", "numpy", "soxr", "soundfile", "av",
    )  # fmt: skip
    return {package: version(package) for package in ("feltsound", *packages)}


def threads_for_this_process() -> int | None:
    """How many threads torch should take: the cores divided by the processes on this host.

    None leaves torch alone, because the user chose with OMP_NUM_THREADS. `accelerate launch` without a config sets it
    to 1 for its children, which is nobody's choice; there only another value counts as chosen.
    """
    chosen = os.environ.get("OMP_NUM_THREADS")
    set_by_accelerate = chosen == "1" and "ACCELERATE_MIXED_PRECISION" in os.environ
    if chosen is not None and not set_by_accelerate:
        return None
    return max(1, available_cores() // processes_of_this_host())


def processes_of_this_host() -> int:
    """How many processes of this training run on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def others_run_too(own: int) -> bool:
    """Whether more wants to run than the cores can take and `own` threads and processes of ours are.

    Not known, so False, where this process may use only some of the cores: the load is that of all.
    """
    cores = available_cores()
    return cores == os.cpu_count() and os.getloadavg()[0] > max(cores, own) + SPARE_LOAD


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
