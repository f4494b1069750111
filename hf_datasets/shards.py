"""Write and read the Parquet shards of a data set. The same rows give the same bytes, with any number of processes."""

import collections
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .output import Location

ROWS_PER_GROUP = 4  # a writer holds one group in memory, and a row with its sound is about 1 MB
READERS = 8  # threads that read finished shards

# Given names of columns, yields (split, table) of each finished shard in turn.
RowReader = Callable[[list[str]], Iterator[tuple[str, pa.Table]]]

# Of the threads of one process only one makes rows at a time; the others may upload meanwhile. Two makers would need
# twice the memory and gain nothing, because Python runs one of them at a time.
_MAKING = threading.Lock()


def write_parquet(
    file: BinaryIO, tables: Iterable[pa.Table], schema: pa.Schema, rows_per_group: int = ROWS_PER_GROUP
) -> None:
    """Write tables as row groups of one size; the bytes do not depend on how rows are distributed over tables."""
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        pending = schema.empty_table()
        for table in tables:
            pending = pa.concat_tables([pending, table])
            while len(pending) >= rows_per_group:
                writer.write_table(pending.slice(0, rows_per_group))
                pending = pending.slice(rows_per_group)
        if len(pending):
            writer.write_table(pending)


def write_shard(
    location: Location,
    name: str,
    generate_tables: Callable[..., Iterator],
    gen_kwargs: dict[str, Any],
    rows_per_group: int = ROWS_PER_GROUP,
) -> list[tuple[str, dict]]:
    """Write the rows that a builder's `_generate_tables` yields for these inputs.

    Returns the (row id, defect) pairs of the rows. One row group and the table after it are in memory at a time.
    """
    pairs: list[tuple[str, dict]] = []

    def tables_with_defects_collected() -> Iterator[pa.Table]:
        for _, table in generate_tables(**gen_kwargs):
            pairs.extend(defects_of(table))
            yield table

    def make(file: BinaryIO) -> None:
        with _MAKING:
            tables = tables_with_defects_collected()
            first = next(tables)
            schema, tables = first.schema, one_ahead(itertools.chain([first], tables))
            del first  # this frame would keep the table in memory until the shard is written
            write_parquet(file, tables, schema, rows_per_group)

    location.write(name, make)
    return pairs


def collect_defects(generate_tables: Callable[..., Iterator], gen_kwargs: dict[str, Any]) -> list[tuple[str, dict]]:
    """Return the (row id, defect) pairs of the rows that `_generate_tables` yields, without keeping the rows."""
    return [pair for _, table in generate_tables(**gen_kwargs) for pair in defects_of(table)]


def defects_of(table: pa.Table) -> list[tuple[str, dict]]:
    """Return the (row id, defect) pairs of a table whose first column is the id."""
    # Filter in Arrow first: few of AudioSet's two million rows have a defect, and Python objects are slow to make.
    table = table.filter(pc.greater(pc.list_value_length(table["defects"]), 0))
    ids, defects = table.column(0).to_pylist(), table.column("defects").to_pylist()
    return [(row_id, defect) for row_id, row_defects in zip(ids, defects, strict=True) for defect in row_defects]


def cut_inputs(gen_kwargs: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Cut a builder's `gen_kwargs` into shards of `size` inputs: lists are sliced, other values repeated."""
    lists = {key: value for key, value in gen_kwargs.items() if isinstance(value, list)}
    lengths = {len(value) for value in lists.values()}
    assert len(lengths) == 1, f"gen_kwargs need lists of one length, got {lengths}"
    starts = range(0, lengths.pop(), size)
    return [gen_kwargs | {key: value[start : start + size] for key, value in lists.items()} for start in starts]


def map_ahead(function: Callable[[Any], Any], items: Iterable[Any], threads: int = READERS) -> Iterator[Any]:
    """Yield `function(item)` in order, computed up to `threads` items ahead; the first error cancels the rest."""
    # Not `pool.map`, which submits every item at once and would hold all results in memory.
    pool = ThreadPoolExecutor(threads)
    pending: collections.deque[Future] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items; a thread makes the next one while the caller uses the current one."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, items, end)
        while (item := pending.result()) is not end:
            pending = pool.submit(next, items, end)
            yield item
            del item  # frees it before the wait for the next one, so that no more than two items are in memory
