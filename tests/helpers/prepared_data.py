"""Small raw trees, and the results of preparing them: rows, files and error messages."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

SMALL = {
    "folder": {"num_songs": 2, "num_listeners": 2, "seconds": (10.0, 10.5)},
    "pmemo": {"num_songs": 2, "num_listeners": 2, "seconds": (10.0, 10.5), "defects": "none"},
    "hku956": {
        "num_songs": 2,
        "num_participants": 2,
        "listeners_a_song": 2,
        "seconds": (10.0, 10.5),
        "defects": "none",
    },
    "meld": {"num_train": 8, "num_dev": 4, "num_test": 4, "defects": "none"},
    "audioset": {"num_train": 12, "num_eval": 6, "defects": "none", "suffix": ".wav"},
    "tunein": {"num_creatives": 8, "defects": "none"},
}


def synthesize(name: str, folder: Path) -> None:
    """Write a small raw tree of a data set."""
    importlib.import_module(f"hf_datasets.{name}.synthesize").synthesize(folder, **SMALL[name])


def raw_options(name: str, raw: Path) -> list[str]:
    """Return the arguments of `prepare` that name the raw files."""
    if name == "audioset":
        root = raw / "AudioSet"
        return ["--raw_dir", str(root / "metadata"), "--audio_root", str(root / "audio")]
    return ["--raw_dir", str(raw)]


def rows_of(builder: datasets.ArrowBasedBuilder) -> list[dict[str, Any]]:
    """Run a builder in memory and return the rows of all splits."""
    return [
        row
        for split in builder._split_generators(None)
        for _, table in builder._generate_tables(**split.gen_kwargs)
        for row in table.to_pylist()
    ]


def kinds(row: dict[str, Any]) -> set[str]:
    """Return the names of a row's defects."""
    return {defect["what"] for defect in row["defects"]}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files by their path in a folder, except lock files."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def complaint(main: Callable[[list[str]], None], *arguments: object) -> str:
    """Run a program that must fail, and return its error, which must be one line."""
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    return stopped.value.code
