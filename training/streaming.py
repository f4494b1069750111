"""Rows whose big columns stay on S3: these are read shard by shard, when an item is asked for.

Small columns (ids, targets, what there is) are read of all shards at once, by ranges. Beside them a row says in
`stored_in` where its big columns lie; from there they come by way of `S3FileManager`, whose copies of shards take no
more than `streaming_cache_gb`. Shard s belongs to rank s % world, in training and in evaluation.
"""

# N rows, S shards

import hashlib
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from accelerate.utils import gather_object

from system.storage import S3FileManager, S3Object
from training.samplers import SHARDS_TOGETHER

STORED_IN = "stored_in"  # the column that says where the big ones lie
PLACE = datasets.Features(
    shard=datasets.Value("int32"),  # its number in the order of the data
    url=datasets.Value("string"),
    group=datasets.Value("int32"),  # row group of the shard
    row=datasets.Value("int32"),  # of the row group
)
MEGABYTE, GIGABYTE = 10**6, 10**9
READERS = 16  # threads that read small columns
DECODED_BYTES = 1 << 30  # of row groups that a process keeps decoded
ROWS_AT_ONCE = 256  # that a pass over the data reads together
PEEKED_BYTES = 1 << 16  # that are read at once of a shard that is only looked into


def stream_rows(config: str, shards: dict[str, list[S3Object]], streamed: Sequence[str]) -> datasets.Dataset:
    """The rows of all splits, one after the other, without their `streamed` columns but with where these lie."""
    files = [file for split in shards.values() for file in split]
    check_room(files)
    store = S3FileManager.shared().file_system()

    def small(number: int, file: S3Object) -> pa.Table:
        with store.open(file.url, "rb", cache_type="none") as opened:
            parquet = pq.ParquetFile(opened, pre_buffer=True)
            table = parquet.read([name for name in parquet.schema_arrow.names if name not in streamed])
            sizes = np.array([parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)], int)
        places = {
            "shard": np.full(len(table), number),
            "url": [file.url] * len(table),
            "group": np.repeat(np.arange(len(sizes)), sizes),
            "row": np.arange(len(table)) - np.repeat(np.cumsum(sizes) - sizes, sizes),
        }
        kinds = PLACE.arrow_schema
        arrays = [pa.array(places[name], kinds.field(name).type) for name in kinds.names]
        return table.append_column(STORED_IN, pa.StructArray.from_arrays(arrays, fields=list(kinds)))

    with ThreadPoolExecutor(READERS) as pool:
        table = pa.concat_tables(pool.map(small, itertools.count(), files))
    features = datasets.Features.from_arrow_schema(table.schema)
    digest = hashlib.sha256(repr([(file.url, file.etag) for file in files]).encode()).hexdigest()[:16]
    info = datasets.DatasetInfo(features=features, config_name=config)
    return datasets.Dataset(table.replace_schema_metadata(), info=info, fingerprint=digest)


def check_room(files: Sequence[S3Object]) -> None:
    """Refuse a cache in which the shards that are worked on would push each other out."""
    room, largest = S3FileManager.shared().max_bytes, max(file.size for file in files)
    needed = 2 * SHARDS_TOGETHER * largest
    if needed > room:
        raise ValueError(
            f"streaming_cache_gb = {room / GIGABYTE:g} is too small: {2 * SHARDS_TOGETHER} shards of up to {largest} "
            f"bytes are needed at once; give {math.ceil(needed / MEGABYTE) / 1000:g} or more"
        )


def is_streamed(rows: datasets.Dataset) -> bool:
    """Whether the big columns of some rows lie elsewhere."""
    return STORED_IN in rows.column_names


def shards_of(rows: datasets.Dataset) -> np.ndarray | None:
    """The number of each row's shard (N,), None where rows are not streamed."""
    return shard_numbers(rows) if is_streamed(rows) else None


def shard_numbers(rows: datasets.Dataset) -> np.ndarray:
    """Return the number of the shard (N,) of each streamed row."""
    places = rows.select_columns([STORED_IN]).with_format("arrow")[:][STORED_IN].combine_chunks()
    return places.field("shard").to_numpy()


def arrow_rows(rows: datasets.Dataset, columns: Sequence[str]) -> Any:
    """Some columns of the rows, big ones too: `[3]`, `[[3, 4]]` or `[3:5]` of it is an Arrow table."""
    if is_streamed(rows):
        return StreamedRows(rows, columns)
    return rows.select_columns(list(columns)).with_format("arrow")


class StreamedRows:
    """Some columns of streamed rows, read when they are asked for."""

    def __init__(self, rows: datasets.Dataset, columns: Sequence[str]) -> None:
        small = [name for name in columns if name in rows.column_names]
        self.small: Any = rows.select_columns([*small, STORED_IN]).with_format("arrow")
        self.big = tuple(name for name in columns if name not in small)
        self.shards = shard_numbers(rows)
        numbers, first = np.unique(self.shards, return_index=True)
        places = rows.select(first)[STORED_IN][:]
        self.urls = dict(zip(numbers.tolist(), [place["url"] for place in places], strict=True))

    def __getitem__(self, which: int | slice | list[int]) -> pa.Table:
        table = self.small[which]
        places = table[STORED_IN].to_pylist()
        big = pa.concat_tables(
            [_groups.read(place["url"], place["group"], self.big).slice(place["row"], 1) for place in places]
        )
        for name in self.big:
            table = table.append_column(name, big[name])
        return table

    def url_of(self, index: int) -> str:
        """The shard of a row, so that it can be fetched ahead."""
        return self.urls[int(self.shards[index])]

    def peek(self, index: int, column: str) -> Any:
        """One cell, by ranges: for what has to be known before it is time for the row's shard."""
        place = self.small[index][STORED_IN][0].as_py()
        with S3FileManager.shared().file_system().open(place["url"], "rb", cache_type="none") as opened:
            parquet = pq.ParquetFile(opened, pre_buffer=False, buffer_size=PEEKED_BYTES)
            batches = parquet.iter_batches(place["row"] + 1, row_groups=[place["group"]], columns=[column])
            return next(batches)[column][place["row"]].as_py()


class DecodedGroups:
    """Row groups of leased shards, those used last kept decoded up to a limit (at least one)."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.tables: OrderedDict[tuple, pa.Table] = OrderedDict()

    def read(self, url: str, group: int, columns: tuple[str, ...]) -> pa.Table:
        """Some columns of a row group."""
        key = url, group, columns
        if key not in self.tables:
            with S3FileManager.shared().lease(url) as path:
                self.tables[key] = pq.ParquetFile(path).read_row_group(group, list(columns))
            while len(self.tables) > 1 and sum(table.nbytes for table in self.tables.values()) > self.max_bytes:
                self.tables.popitem(last=False)
        self.tables.move_to_end(key)
        return self.tables[key]


_groups = DecodedGroups(DECODED_BYTES)


def own_blocks(
    rows: datasets.Dataset, columns: Sequence[str], most_shards: int | None = None
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Places in `rows` and some columns there, a block at a time, in order: all, or of streamed rows this rank's.

    Args:
        most_shards: only the first of streamed rows, counted over all ranks.
    """
    read = arrow_rows(rows, columns)
    if not is_streamed(rows):
        for start in range(0, len(rows), ROWS_AT_ONCE):
            places = np.arange(start, min(start + ROWS_AT_ONCE, len(rows)))
            yield places, read[start : start + ROWS_AT_ONCE]
        return
    state, files = PartialState(), S3FileManager.shared()
    own = [shard for shard in list(read.urls)[:most_shards] if shard % state.num_processes == state.process_index]
    for shard, following in itertools.zip_longest(own, own[1:]):
        files.prefetch_files([read.urls[number] for number in (shard, following) if number is not None])
        places = np.flatnonzero(read.shards == shard)
        for start in range(0, len(places), ROWS_AT_ONCE):
            some = places[start : start + ROWS_AT_ONCE]
            yield some, read[some.tolist()]


def of_all_ranks(rows: datasets.Dataset, value: Any) -> list[Any]:
    """What each rank made of its `own_blocks`, in the order of ranks."""
    return gather_object([value]) if is_streamed(rows) else [value]
