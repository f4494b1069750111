"""Names of the data sets in this folder and of the builder options that a command line may set."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILDER_OPTIONS = (
    "audio_root",
    "target",
    "pos_strong_paths",
    "neg_strong_paths",
    "weak_paths",
    "group_paths",
    "check_audio",
    "embed_audio",
    "embed_clips",
)


def data_set_names() -> list[str]:
    return sorted(path.parent.name for path in HERE.glob("*/builder.py"))


def check_arguments(name: str, num_proc: int) -> None:
    """Raise ValueError for an unknown data set or fewer than one process."""
    check_name(name)
    if num_proc < 1:
        raise ValueError(f"--num_proc={num_proc}: must be at least 1. Give a positive number of processes.")


def check_name(name: str) -> None:
    """Raise ValueError for an unknown data set."""
    if name not in data_set_names():
        raise ValueError(f"data set {name!r}: unknown. Choose one of {', '.join(data_set_names())}.")
