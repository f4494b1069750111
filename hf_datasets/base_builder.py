"""The base class of all builders."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import List, Value

from .raw_files import RawFolder, odd_name_defects
from .shards import ROWS_PER_GROUP, RowReader

# Type of the column `defects`, see defects.py.
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
    """A data set built from raw files. The first column of a row is its id; `defects` and `synthetic` are required.

    A subclass sets the attributes without a value, implements `read_raw`, and yields its rows like any
    `ArrowBasedBuilder`, from a static `_generate_tables` (static, so that `prepare` can send it to worker processes).
    """

    # Arrow-based, not generator-based: to encode an `Audio` column row by row, `datasets` needs torchcodec.

    BUILDER_CONFIG_CLASS = RawConfig
    VERSION = datasets.Version("1.0.0")
    DESCRIPTION: str
    HOMEPAGE = ""
    LICENSE = ""
    RAW_DIR: str  # description of the raw folder, for the error when it is not given
    features: datasets.Features
    SHARD_INPUTS: int  # inputs (songs, batches, ...) per Parquet file
    ROWS_PER_GROUP = ROWS_PER_GROUP  # rows per row group of a Parquet file
    ROW = "song"  # header of the first column of defects.csv
    DEFECTS: tuple[str, ...]  # kinds of defects that this builder detects
    REDISTRIBUTION: str | None  # reason why rows may not be shared; None if they may
    REDISTRIBUTION_OF_SOUNDS: str | None = None  # the same for rows with sounds, if only those may not be shared

    def __init__(
        self,
        raw_dir: str | Path | None = None,
        hash: str | None = None,
        options: dict[str, Any] | None = None,  # fields of the config other than raw_dir
        **kwargs: Any,
    ) -> None:
        if raw_dir is None:
            raise ValueError(f"raw_dir=None: {type(self).__name__} needs it. Give {self.RAW_DIR}.")
        options = options or {}
        self.tree = self.read_raw(raw_dir, **options)
        folders = [value for value in vars(self.tree).values() if isinstance(value, RawFolder)]
        self.raw_defects: list[dict] = self.tree.defects + odd_name_defects(folders)  # defects that belong to no row
        self.raw_bytes: int = self.tree.size
        # The hash names the shards and the cache of `datasets`, so it has to change with everything that rows depend
        # on. Otherwise changed raw data would be served from a stale cache.
        parts = [str(self.VERSION), *self.hashed_sizes, self.features.to_dict(), self.tree.digest]
        hash = hash or hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()
        defaults = {
            "dataset_name": self.__module__.split(".")[-2],
            # By default `datasets` puts a hash of `raw_dir` here; equal files in two folders would get two caches.
            "config_id": "full",
        }
        super().__init__(hash=hash, raw_dir=str(raw_dir), **options, **defaults | kwargs)

    def read_raw(self, raw_dir: str | Path, **options: Any) -> Any:
        """Return the raw files as an object with `defects`, `size` (bytes) and `digest`.

        `__init__` adds a defect for each file with an odd name in the object's RawFolders.
        """
        raise NotImplementedError

    @property
    def hashed_sizes(self) -> list[int]:
        """Sizes that decide which rows are in which table and shard; part of the hash."""
        return [self.SHARD_INPUTS]

    @property
    def companions(self) -> dict[str, str]:
        """Small files, by name, that readers of the rows need; `prepare` and `build_sample` write them."""
        return {}

    def lists(self, rows: RowReader) -> tuple[dict[str, str | bytes], str]:
        """Return files to write, by name, made from the finished rows, and a line to print.

        A ValueError keeps the data set from being published.
        """
        return {}, ""

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=self.DESCRIPTION, features=self.features, homepage=self.HOMEPAGE, license=self.LICENSE
        )
