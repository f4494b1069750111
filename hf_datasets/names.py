"""The names of the data sets in this folder, and of what a command line may ask of their builders."""

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
    """Return the names of all data sets in this folder."""
    return sorted(path.parent.name for path in HERE.glob("*/builder.py"))


def check_arguments(name: str, num_proc: int) -> None:
    """Raise a ValueError if the data set or the number of processes cannot be used."""
    check_name(name)
    if num_proc < 1:
        raise ValueError(f"--num_proc {num_proc}: give 1 or more processes")


def check_name(name: str) -> None:
    """Refuse a data set that is not there."""
    if name not in data_set_names():
        raise ValueError(f"there is no data set {name!r}; there are {data_set_names()}")
