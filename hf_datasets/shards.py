"""Parquet files that are whole or not there: same rows, same bytes, however many processes write them."""

import collections
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .output import Place

ROWS_PER_GROUP = 4  # a row with its sound is about 1 MB, and a group is what a writer holds in memory
READERS = 8  # threads that read finished shards

# Columns by name -> (split, table of a finished shard) of one shard after the other: what a builder's `lists` reads.
RowReader = Callable[[list[str]], Iterator[tuple[str, pa.Table]]]

_MAKING = threading.Lock()


def write_parquet(
    file: BinaryIO, tables: Iterable[pa.Table], schema: pa.Schema, rows_per_group: int = ROWS_PER_GROUP
) -> None:
    """Write tables of any number of rows as row groups of one size; the bytes depend on the rows alone."""
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        held = schema.empty_table()
        for table in tables:
            held = pa.concat_tables([held, table])
            while len(held) >= rows_per_group:
                writer.write_table(held.slice(0, rows_per_group))
                held = held.slice(rows_per_group)
        if len(held):
            writer.write_table(held)


def write_shard(
    place: Place,
    name: str,
    generate_tables: Callable[..., Iterator],
    gen_kwargs: dict[str, Any],
    rows_per_group: int = ROWS_PER_GROUP,
) -> list[tuple[str, dict]]:
    """Write the rows that a builder's `_generate_tables` gives for these inputs; returns their (row id, defect) pairs.

    A group of rows is in memory, and the table after it. Of several threads one makes rows, whatever others upload.
    """
    found: list[tuple[str, dict]] = []

    def noted() -> Iterator[pa.Table]:
        for _, table in generate_tables(**gen_kwargs):
            found.extend(defects_of(table))
            yield table

    def make(file: BinaryIO) -> None:
        with _MAKING:
            tables = noted()
            first = next(tables)
            schema, tables = first.schema, one_ahead(itertools.chain([first], tables))
            del first  # else it is in memory to the shard's end
            write_parquet(file, tables, schema, rows_per_group)

    place.write(name, make)
    return found


def collect_defects(generate_tables: Callable[..., Iterator], gen_kwargs: dict[str, Any]) -> list[tuple[str, dict]]:
    """(row id, defect) pairs of what a builder's `_generate_tables` gives for these inputs; the rows are dropped."""
    return [pair for _, table in generate_tables(**gen_kwargs) for pair in defects_of(table)]


def defects_of(table: pa.Table) -> list[tuple[str, dict]]:
    """(row id, defect) pairs of a table whose first column is the id and that has a column `defects`."""
    table = table.filter(pc.greater(pc.list_value_length(table["defects"]), 0))  # of two million rows few have one
    ids, defects = table.column(0).to_pylist(), table.column("defects").to_pylist()
    return [(row_id, defect) for row_id, found in zip(ids, defects, strict=True) for defect in found]


def cut_inputs(gen_kwargs: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """A builder's `gen_kwargs` cut into shards of `size` inputs: its lists are cut, everything else is repeated."""
    lists = {key: value for key, value in gen_kwargs.items() if isinstance(value, list)}
    lengths = {len(value) for value in lists.values()}
    assert len(lengths) == 1, f"gen_kwargs need lists of one length, got {lengths}"
    starts = range(0, lengths.pop(), size)
    return [gen_kwargs | {key: value[start : start + size] for key, value in lists.items()} for start in starts]


def map_ahead(function: Callable[[Any], Any], items: Iterable[Any], threads: int = READERS) -> Iterator[Any]:
    """The results in order, by threads that are as many items ahead; the first error stops the rest and is raised."""
    pool = ThreadPoolExecutor(threads)
    coming: collections.deque[Future] = collections.deque()
    try:
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) == threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made by a thread while the one before it is used."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item
            del item  # the next one is waited for without it
