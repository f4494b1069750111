"""Parquet files that are whole or not there: same rows, same bytes, however many processes write them."""

import errno
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_A_GROUP = 4  # a row with its sound is about 1 MB, and a group is what a writer holds in memory
TEMPORARY = ".tmp"  # ends the hidden names of files that are being written


class WriteError(OSError):
    """A file could not be written, as opposed to an input that could not be read; `errno` and `filename` say why."""


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Call `write` with a file that gets its name only when it is complete and on disk; WriteError otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")  # hidden: `datasets` never reads it
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WriteError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_parquet(file: BinaryIO, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of any number of rows as row groups of ROWS_A_GROUP; the bytes depend on the rows alone."""
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        held: list[pa.Table] = []
        for table in tables:
            held.append(table)
            if sum(len(part) for part in held) >= ROWS_A_GROUP:
                writer.write_table(pa.concat_tables(held), row_group_size=ROWS_A_GROUP)
                held = []
        if held:
            writer.write_table(pa.concat_tables(held), row_group_size=ROWS_A_GROUP)


def write_shard(path: Path, generate_tables: Callable[..., Iterator], gen_kwargs: dict[str, Any]) -> None:
    """Write the rows that a builder's `_generate_tables` gives for these inputs, one table in memory at a time."""
    tables = (table for _, table in generate_tables(**gen_kwargs))
    first = next(tables)
    write_atomically(path, lambda file: write_parquet(file, itertools.chain([first], tables), first.schema))


def collect_defects(generate_tables: Callable[..., Iterator], gen_kwargs: dict[str, Any]) -> list[tuple[str, dict]]:
    """(row id, defect) pairs of what a builder's `_generate_tables` gives for these inputs; the rows are dropped."""
    return [pair for _, table in generate_tables(**gen_kwargs) for pair in defects_of(table)]


def defects_of(table: pa.Table) -> list[tuple[str, dict]]:
    """(row id, defect) pairs of a table whose first column is the id and that has a column `defects`."""
    ids, defects = table.column(0).to_pylist(), table.column("defects").to_pylist()
    return [(row_id, defect) for row_id, found in zip(ids, defects, strict=True) for defect in found]


def cut_inputs(gen_kwargs: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """A builder's `gen_kwargs` cut into shards of `size` inputs: its lists are cut, everything else is repeated."""
    lists = {key: value for key, value in gen_kwargs.items() if isinstance(value, list)}
    lengths = {len(value) for value in lists.values()}
    assert len(lengths) == 1, f"gen_kwargs need lists of one length, got {lengths}"
    starts = range(0, lengths.pop(), size)
    return [gen_kwargs | {key: value[start : start + size] for key, value in lists.items()} for start in starts]


def map_in_processes(
    function: Callable[..., Any], jobs: list[tuple], num_proc: int, preload: list[str]
) -> Iterator[tuple[int, Any]]:
    """Yield (index of the job, result) as jobs finish; the first error stops the rest and is raised.

    Workers come from a fork server that has imported `preload` and holds none of our locks or threads, and they
    end with their parent, however it ends: nothing goes on writing after a `kill -9`.
    """
    if num_proc == 1 or len(jobs) <= 1:
        for i, job in enumerate(jobs):
            yield i, function(*job)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    with ProcessPoolExecutor(min(num_proc, len(jobs)), mp_context=context, initializer=_end_with_parent) as pool:
        futures = {pool.submit(function, *job): i for i, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()  # popped: a result is held no longer than needed
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
