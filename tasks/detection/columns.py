"""Columns of a data set as NumPy arrays, without a Python object per row: there may be two million rows."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# R rows, P pairs of row and label, E events


ROWS_AT_ONCE = 2**16  # keeps intermediate arrays in the processor's cache
NO_REASON = "no audio"  # for a row with neither audio nor a recorded defect


@dataclass(frozen=True)
class ClipColumns:
    """Columns (R,) of the data set; lists of all rows are concatenated."""

    ids: pa.ChunkedArray
    usable: np.ndarray  # bool, has audio
    subset: np.ndarray  # int32, position in `subsets`
    subsets: list[str]
    strong: np.ndarray  # bool, all events are listed in a strong table
    seconds: np.ndarray  # float32, length of the file, inf if unknown
    codes: np.ndarray  # (P,) int16, weak labels
    edges: np.ndarray  # (R + 1,) int32, start of each row's labels in `codes`
    event_rows: np.ndarray  # (E,) int32
    event_codes: np.ndarray  # (E,) int16
    event_start: np.ndarray  # (E,) float32, s in the file
    event_end: np.ndarray  # (E,) float32, at most the length of the file
    present: np.ndarray  # (E,) bool, False: an annotator confirmed its absence
    groups: pa.ChunkedArray | None  # None: the data set has no groups, so each id is its own group

    @classmethod
    def of(cls, table: pa.Table) -> "ClipColumns":
        """Read the columns of a Parquet file or a `datasets` table."""
        codes, edges = _concatenate_lists(table["labels"], _codes)
        events, event_edges = _concatenate_lists(table["events"], _event_columns)
        event_codes, event_start, event_end, present = events
        subset, subsets = _encode_strings(table["subset"])
        seconds = _without_nulls(table["audio_seconds"], np.inf)
        rows = np.repeat(np.arange(len(table), dtype=np.int32), np.diff(event_edges))
        return cls(
            ids=table["clip_id"],
            usable=_without_nulls(table["audio"].is_valid(), False),
            subset=subset,
            subsets=subsets,
            strong=_without_nulls(table["strongly_labelled"], False),
            seconds=seconds,
            codes=codes[0],
            edges=edges,
            event_rows=rows,
            event_codes=event_codes,
            event_start=event_start,
            event_end=np.minimum(event_end, seconds[rows]),
            present=present,
            groups=groups_of(table),
        )

    def __len__(self) -> int:
        return len(self.usable)

    @functools.cached_property
    def test(self) -> np.ndarray:
        """Rows (R,) bool of the subset `eval`."""
        return self.in_subset("eval")

    @functools.cached_property
    def label_counts(self) -> np.ndarray:
        """Number of rows per weak label, indexed by code."""
        size = int(self.codes.max(initial=-1)) + 1
        return sum((np.bincount(self.codes[pairs], minlength=size) for _, pairs in self.blocks()), np.zeros(size, int))

    def in_subset(self, name: str) -> np.ndarray:  # (R,) bool
        return self.subset == (self.subsets.index(name) if name in self.subsets else -1)

    def labelled_by_events(self) -> "ClipColumns":
        """Give rows without weak labels the labels of their events, if all of these are known."""
        without = self.strong & (np.diff(self.edges) == 0)
        which = self.present & without[self.event_rows]
        if not which.any():
            return self
        # np.unique drops repeats: a label with several events counts once per row.
        pairs = np.stack([self.event_rows[which], self.event_codes[which].astype(np.int32)])
        rows, codes = np.unique(pairs, axis=1)
        rows = np.concatenate([np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.edges)), rows])
        order = np.argsort(rows, kind="stable")
        codes = np.concatenate([self.codes, codes.astype(np.int16)])[order]
        edges = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=len(self))))).astype(np.int32)
        return replace(self, codes=codes, edges=edges)

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yield consecutive blocks of rows, each with the slice of its row-label pairs."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, len(self)))
            yield rows, slice(self.edges[rows.start], self.edges[rows.stop])

    def with_labels(self, wanted: Sequence[int]) -> np.ndarray:
        """Return which rows (R,) bool have at least one of the weak labels."""
        rows = np.zeros(len(self), bool)
        rows[np.searchsorted(self.edges, np.flatnonzero(is_one_of(self.codes, wanted)), side="right") - 1] = True
        return rows

    def with_events(self, which: np.ndarray) -> np.ndarray:
        """Return which rows (R,) bool have at least one of the selected events (E,) bool."""
        rows = np.zeros(len(self), bool)
        rows[self.event_rows[which]] = True
        return rows

    def drawable_events(self) -> np.ndarray:
        """Return which events (E,) bool are present and inside their file."""
        return self.present & (self.event_start < self.event_end) & (self.event_start < self.seconds[self.event_rows])

    def twins(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of repeated ids, and a number per id; `draws` (R,) are equal for equal ids."""
        # Sorting numbers is far faster than comparing two million strings.
        in_order = np.sort(draws)
        repeated = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
        if not len(repeated):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        rows = np.flatnonzero(np.isin(draws, repeated))
        ids = self.ids.take(pa.array(rows)).combine_chunks()
        return rows, ids.dictionary_encode().indices.to_numpy()


def groups_of(table: pa.Table) -> pa.ChunkedArray | None:
    """Return the group of each row (R,), its id if it has none; None if no row has a group."""
    if "group" not in table.column_names or table["group"].null_count == len(table):
        return None
    return pc.coalesce(table["group"], table["clip_id"])  # pyright: ignore[reportAttributeAccessIssue]


def recordings_of(table: pa.Table) -> list[str]:
    """Return the resampling group of each row (R,): its group, or its id if it has none."""
    groups = groups_of(table)
    return (table["clip_id"] if groups is None else groups).to_pylist()


def is_one_of(codes: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
    """Return which codes (N,) are among the wanted ones, bool."""
    # A lookup table over all int16 codes needs no intermediate array of the size of `codes`, as np.isin would.
    table, matches = np.zeros(np.iinfo(np.int16).max + 1, bool), np.empty(len(codes), bool)
    table[list(wanted)] = True
    for start in range(0, len(codes), ROWS_AT_ONCE):
        matches[start : start + ROWS_AT_ONCE] = table[codes[start : start + ROWS_AT_ONCE]]
    return matches


def reasons_without_audio(table: pa.Table, usable: np.ndarray) -> dict[str, int]:
    """Count the clips without usable audio by defect, most frequent first; a clip may have several defects."""
    defects = table["defects"].filter(pa.array(~usable))
    reasons: Counter[str] = Counter()
    unexplained = 0
    for chunk in defects.chunks:
        unexplained += int(np.count_nonzero(_lengths(chunk) == 0))
        for entry in _fields(chunk.flatten())["what"].value_counts().to_pylist():
            reasons[entry["values"]] += entry["counts"]
    if unexplained:
        reasons[NO_REASON] = unexplained
    return dict(reasons.most_common())


def _concatenate_lists(
    column: pa.ChunkedArray, columns_of: Callable[[pa.Array], tuple[np.ndarray, ...]]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Concatenate the values of all lists; returns their columns and where each list starts (R + 1,) int32."""
    edges = np.zeros(len(column) + 1, np.int32)
    np.cumsum(np.concatenate([np.zeros(0, np.int32), *(_lengths(chunk) for chunk in column.chunks)]), out=edges[1:])
    # Converted chunk by chunk, because the NumPy columns are narrower than the Arrow values. The empty columns set
    # the types for a table without rows.
    empty = columns_of(pa.array([], column.type.value_type))
    columns = zip(empty, *(columns_of(chunk.flatten()) for chunk in column.chunks), strict=True)
    return [np.concatenate(parts) for parts in columns], edges


def _lengths(lists: pa.ListArray) -> np.ndarray:
    return _without_nulls(lists.value_lengths(), 0)


def _codes(labels: pa.Array) -> tuple[np.ndarray]:
    return (labels.to_numpy().astype(np.int16, copy=False),)


def _fields(values: pa.StructArray) -> dict[str, pa.Array]:
    return dict(zip((field.name for field in values.type), values.flatten(), strict=True))


def _event_columns(events: pa.StructArray) -> tuple[np.ndarray, ...]:
    """Return code, start, end and presence of events."""
    fields = _fields(events)
    times = (fields[name].to_numpy() for name in ("start_seconds", "end_seconds"))
    return fields["label"].to_numpy().astype(np.int16, copy=False), *times, _without_nulls(fields["present"], False)


def _encode_strings(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Return the index of each string (R,) and the list of distinct strings."""
    column = column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    if not column.num_chunks:
        return np.zeros(0, np.int32), []
    return np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks]), column.chunk(
        0
    ).dictionary.to_pylist()


def _without_nulls(column: pa.Array | pa.ChunkedArray, missing: bool | float) -> np.ndarray:
    return np.asarray(column.fill_null(pa.scalar(missing, column.type)) if column.null_count else column)
