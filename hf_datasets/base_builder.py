"""The parts that all builders share. They have a file of their own because builders.py imports every builder."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import List, Value

from .raw_files import RawFolder, odd_name_defects
from .shards import ROWS_PER_GROUP, RowReader

# The column of a row that says what was found.
DEFECTS_COLUMN = List(
    {
        "listener": Value("string"),
        "what": Value("string"),
        "how_much": Value("float64"),
        "unit": Value("string"),
        "detail": Value("string"),
    }
)


@dataclass
class RawConfig(datasets.BuilderConfig):
    """`raw_dir` is the folder or s3:// URL of the raw files."""

    name: str = "full"
    raw_dir: str | None = None


class Builder(datasets.ArrowBasedBuilder):
    """A data set that is made from raw files. A row starts with its id and has the columns `defects` and `synthetic`.

    A subclass sets the attributes without a value, returns its raw files from `read_raw`, and gives its rows as every
    `ArrowBasedBuilder` does, with a static `_generate_tables`. It is Arrow-based because encoding an `Audio` column
    row by row needs torchcodec. The `hash` covers the version, the columns, the sizes of shards and the content of the
    raw files, so that changed data are never served from a stale cache.
    """

    BUILDER_CONFIG_CLASS = RawConfig
    VERSION = datasets.Version("1.0.0")
    DESCRIPTION: str
    HOMEPAGE = ""
    LICENSE = ""
    RAW_DIR: str  # the folder of the raw files, as the error calls it when it is missing
    features: datasets.Features
    SHARD_INPUTS: int  # per Parquet file
    ROWS_PER_GROUP = ROWS_PER_GROUP  # in a Parquet file
    ROW = "song"  # the name of a row in defects.csv
    DEFECTS: tuple[str, ...]  # the kinds that it finds
    REDISTRIBUTION: str | None  # why rows may not be shared; None if they may
    REDISTRIBUTION_OF_SOUNDS: str | None = None  # why rows that hold sounds may not be shared, if others may

    def __init__(
        self,
        raw_dir: str | Path | None = None,
        hash: str | None = None,
        options: dict[str, Any] | None = None,  # of the config, in addition to raw_dir
        **kwargs: Any,
    ) -> None:
        if raw_dir is None:
            raise ValueError(f"{type(self).__name__} needs raw_dir, {self.RAW_DIR}")
        options = options or {}
        self.tree = self.read_raw(raw_dir, **options)
        folders = [value for value in vars(self.tree).values() if isinstance(value, RawFolder)]
        self.raw_defects: list[dict] = self.tree.defects + odd_name_defects(folders)  # of no row
        self.raw_bytes: int = self.tree.size
        parts = [str(self.VERSION), *self.hashed_sizes, self.features.to_dict(), self.tree.digest]
        hash = hash or hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()
        defaults = {
            "dataset_name": self.__module__.split(".")[-2],
            "config_id": "full",  # the hash identifies the raw files; their folder does not matter
        }
        super().__init__(hash=hash, raw_dir=str(raw_dir), **options, **defaults | kwargs)

    def read_raw(self, raw_dir: str | Path, **options: Any) -> Any:
        """Return the raw files as an object with `defects`, `size` (bytes) and `digest`.

        Files of its RawFolders whose names are not UTF-8 become defects by themselves.
        """
        raise NotImplementedError

    @property
    def hashed_sizes(self) -> list[int]:
        """The sizes of shards and tables that the hash covers."""
        return [self.SHARD_INPUTS]

    @property
    def companions(self) -> dict[str, str]:
        """Small files by name that readers of the rows need; they also go next to a committed sample."""
        return {}

    def lists(self, rows: RowReader) -> tuple[dict[str, str | bytes], str]:
        """Make files by name from the finished rows, and a line to print; a ValueError stops publishing."""
        return {}, ""

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=self.DESCRIPTION, features=self.features, homepage=self.HOMEPAGE, license=self.LICENSE
        )
