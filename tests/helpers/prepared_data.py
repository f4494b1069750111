"""What a preparation leaves: the rows of a builder, files by name, and the message of a failure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest


def rows_of(builder: datasets.ArrowBasedBuilder) -> list[dict[str, Any]]:
    """Run a builder in memory, and return the rows of all splits."""
    return [
        row
        for split in builder._split_generators(None)
        for _, table in builder._generate_tables(**split.gen_kwargs)
        for row in table.to_pylist()
    ]


def kinds(row: dict[str, Any]) -> set[str]:
    """Return the kinds of a row's defects."""
    return {defect["what"] for defect in row["defects"]}


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files by their path in a folder, without locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def complaint(main: Callable[[list[str]], None], *arguments: object) -> str:
    """Return the one line that a failing program ends with."""
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    return stopped.value.code
