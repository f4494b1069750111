"""Stream a data set from S3: large columns are read shard by shard, when an item needs them.

Small columns such as ids and targets are read from all shards at the start, with range requests. The column
`stored_in` tells for each row where its large columns are. They are read through `S3FileManager`, whose local copies
of shards take at most `streaming_cache_gb`. Shard s belongs to rank s % world_size, in training and in evaluation.
"""

# Shape suffixes: N rows, S shards.

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

STORED_IN = "stored_in"  # the column with the location of the large columns
LOCATION = datasets.Features(
    shard=datasets.Value("int32"),  # number of the shard in the order of the data
    url=datasets.Value("string"),
    group=datasets.Value("int32"),  # row group within the shard
    row=datasets.Value("int32"),  # row within the row group
)
MEGABYTE, GIGABYTE = 10**6, 10**9
READERS = 16  # threads for small reads; they wait for the network rather than compute
DECODED_BYTES = 1 << 30  # decoded row groups that a process keeps in memory
ROWS_AT_ONCE = 256  # rows per block of a pass over the data
PEEK_BYTES = 1 << 16  # size of a range request when a single cell is read


def stream_rows(config: str, shards: dict[str, list[S3Object]], streamed: Sequence[str]) -> datasets.Dataset:
    """Return the rows of all splits without the `streamed` columns, and with the column `stored_in`."""
    files = [file for split in shards.values() for file in split]
    check_cache_size(files)
    store = S3FileManager.shared().file_system()

    def small_columns(number: int, file: S3Object) -> pa.Table:
        with store.open(file.url, "rb", cache_type="none") as stream:
            # pre_buffer joins the ranges of neighbouring columns into few large requests.
            parquet = pq.ParquetFile(stream, pre_buffer=True)
            table = parquet.read([name for name in parquet.schema_arrow.names if name not in streamed])
            sizes = np.array([parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)], int)
        locations = {
            "shard": np.full(len(table), number),
            "url": [file.url] * len(table),
            "group": np.repeat(np.arange(len(sizes)), sizes),
            "row": np.arange(len(table)) - np.repeat(np.cumsum(sizes) - sizes, sizes),
        }
        schema = LOCATION.arrow_schema
        arrays = [pa.array(locations[name], schema.field(name).type) for name in schema.names]
        return table.append_column(STORED_IN, pa.StructArray.from_arrays(arrays, fields=list(schema)))

    with ThreadPoolExecutor(READERS) as pool:
        table = pa.concat_tables(pool.map(small_columns, itertools.count(), files))
    features = datasets.Features.from_arrow_schema(table.schema)
    # The fingerprint is the key of cached features, so it has to follow from the content of the files.
    digest = hashlib.sha256(repr([(file.url, file.etag) for file in files]).encode()).hexdigest()[:16]
    info = datasets.DatasetInfo(features=features, config_name=config)
    return datasets.Dataset(table.replace_schema_metadata(), info=info, fingerprint=digest)


def check_cache_size(files: Sequence[S3Object]) -> None:
    """Raise ValueError if the cache is too small for the shards that are in use at the same time."""
    available, largest = S3FileManager.shared().max_bytes, max(file.size for file in files)
    needed = 2 * SHARDS_TOGETHER * largest  # one group of shards in use, and the next one being downloaded
    if needed > available:
        raise ValueError(
            f"streaming_cache_gb={available / GIGABYTE:g}: too small for {2 * SHARDS_TOGETHER} shards of up to "
            f"{largest} bytes, which are needed at once. Give {math.ceil(needed / MEGABYTE) / 1000:g} or more."
        )


def is_streamed(rows: datasets.Dataset) -> bool:
    """Return whether the large columns of these rows stay on S3."""
    return STORED_IN in rows.column_names


def shards_of(rows: datasets.Dataset) -> np.ndarray | None:
    """Return the shard number (N,) of each row, or None if the rows are not streamed."""
    return shard_numbers(rows) if is_streamed(rows) else None


def shard_numbers(rows: datasets.Dataset) -> np.ndarray:
    """Return the shard number (N,) of each streamed row."""
    locations = rows.select_columns([STORED_IN]).with_format("arrow")[:][STORED_IN].combine_chunks()
    return locations.field("shard").to_numpy()


def arrow_rows(rows: datasets.Dataset, columns: Sequence[str]) -> Any:
    """Return an object whose `[3]`, `[[3, 4]]` and `[3:5]` are Arrow tables of these columns, large ones included."""
    if is_streamed(rows):
        return StreamedRows(rows, columns)
    return rows.select_columns(list(columns)).with_format("arrow")


class StreamedRows:
    """Columns of streamed rows. Large columns are read when an item is accessed."""

    def __init__(self, rows: datasets.Dataset, columns: Sequence[str]) -> None:
        small = [name for name in columns if name in rows.column_names]
        self.small: Any = rows.select_columns([*small, STORED_IN]).with_format("arrow")
        self.large = tuple(name for name in columns if name not in small)
        self.shards = shard_numbers(rows)
        numbers, first = np.unique(self.shards, return_index=True)
        locations = rows.select(first)[STORED_IN][:]
        self.urls = dict(zip(numbers.tolist(), [location["url"] for location in locations], strict=True))

    def __getitem__(self, which: int | slice | list[int]) -> pa.Table:
        table = self.small[which]
        locations = table[STORED_IN].to_pylist()
        large = pa.concat_tables(
            [
                _groups.read(location["url"], location["group"], self.large).slice(location["row"], 1)
                for location in locations
            ]
        )
        for name in self.large:
            table = table.append_column(name, large[name])
        return table

    def url_of(self, index: int) -> str:
        """Return the URL of the shard of a row, for prefetching."""
        return self.urls[int(self.shards[index])]

    def peek(self, index: int, column: str) -> Any:
        """Read one cell with range requests, without downloading its shard."""
        location = self.small[index][STORED_IN][0].as_py()
        with S3FileManager.shared().file_system().open(location["url"], "rb", cache_type="none") as stream:
            # pre_buffer would download the whole column chunk.
            parquet = pq.ParquetFile(stream, pre_buffer=False, buffer_size=PEEK_BYTES)
            batches = parquet.iter_batches(location["row"] + 1, row_groups=[location["group"]], columns=[column])
            return next(batches)[column][location["row"]].as_py()


class DecodedGroups:
    """A least-recently-used cache of decoded row groups, up to `max_bytes` in total but always at least one."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.tables: OrderedDict[tuple, pa.Table] = OrderedDict()

    def read(self, url: str, group: int, columns: tuple[str, ...]) -> pa.Table:
        """Return columns of a row group."""
        key = url, group, columns
        if key not in self.tables:
            with S3FileManager.shared().lease(url) as path:
                self.tables[key] = pq.ParquetFile(path).read_row_group(group, list(columns))
            while len(self.tables) > 1 and sum(table.nbytes for table in self.tables.values()) > self.max_bytes:
                self.tables.popitem(last=False)
        self.tables.move_to_end(key)
        return self.tables[key]


# One cache per process, shared by its data sets: train, validation and test rows can be in the same shard.
_groups = DecodedGroups(DECODED_BYTES)


def own_blocks(
    rows: datasets.Dataset, columns: Sequence[str], most_shards: int | None = None
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Yield row numbers and columns block by block, in order: all rows, or this rank's share if they are streamed.

    Args:
        most_shards: for streamed rows, read only the first shards, counted over all ranks.
    """
    read = arrow_rows(rows, columns)
    if not is_streamed(rows):
        for start in range(0, len(rows), ROWS_AT_ONCE):
            places = np.arange(start, min(start + ROWS_AT_ONCE, len(rows)))
            yield places, read[start : start + ROWS_AT_ONCE]
        return
    # Download the next shard while the rows of this one are used.
    state, files = PartialState(), S3FileManager.shared()
    own = [shard for shard in list(read.urls)[:most_shards] if shard % state.num_processes == state.process_index]
    for shard, following in itertools.zip_longest(own, own[1:]):
        files.prefetch_files([read.urls[number] for number in (shard, following) if number is not None])
        places = np.flatnonzero(read.shards == shard)
        for start in range(0, len(places), ROWS_AT_ONCE):
            block = places[start : start + ROWS_AT_ONCE]
            yield block, read[block.tolist()]


def gather_over_ranks(rows: datasets.Dataset, value: Any) -> list[Any]:
    """Collect the results that the ranks computed from their `own_blocks`, in the order of the ranks."""
    # Without streaming every rank reads all rows, so its own result is complete.
    return gather_object([value]) if is_streamed(rows) else [value]
