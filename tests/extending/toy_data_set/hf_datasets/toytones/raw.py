"""Read the raw files of the toy tones, except the sounds, which a builder reads row by row."""

from dataclasses import dataclass
from pathlib import Path

from ..csv_tables import read_table
from ..raw_files import SYNTHETIC_MARKER, RawFolder

TABLE = "tones.csv"


@dataclass(frozen=True)
class RawTree:
    """The raw files. Every builder needs `defects`, `size` and `digest`; the other fields are specific to this one."""

    root: RawFolder
    tones: list[dict[str, str]]  # rows of the table
    synthetic: bool
    defects: list[dict]  # defects that belong to no row
    digest: str  # of all raw files, so that changed files lead to a new data set
    size: int  # bytes


def read_tree(raw_dir: str | Path) -> RawTree:
    """Read the table and list the sounds, in a folder or on S3."""
    root = RawFolder.open(raw_dir, f"folder with {TABLE}")
    if TABLE not in root.files:
        raise ValueError(f"raw_dir={raw_dir}: has no {TABLE}. Give the folder that contains it.")
    defects: list[dict] = []
    tones = read_table(root, TABLE, ("tone_id", "loudness"), defects)
    return RawTree(root, tones, SYNTHETIC_MARKER in root.files, defects, *root.digest(root.files))
