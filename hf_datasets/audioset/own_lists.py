"""Read the user's own lists of clips, for any target, instead of AudioSet's tables or in addition to them.

A list is a tsv or csv file with a header, or a file in the format of the official weak tables. Column names, in any
case:

    clip          segment_id (<id>_<ms>), clip_id, ytid; or filename, path: a file below --audio_root
    event         start_time_seconds, start_time, start, onset; end_time_seconds, end_time, end, offset (s in the file)
    its label     label, event_label; optional in a list of positives, whose events are all of the target
    presence      present: PRESENT or NOT_PRESENT; optional, all events are present without it
    weak labels   positive_labels, labels, label: MIDs separated by commas, or names separated by semicolons
    excerpt       start_seconds, end_seconds of weak lists: seconds in the video; optional
    group         group: recording, uploader or author; optional; all clips of a group are in the same split

A group table has only the columns clip and group.

A list of positives holds every event of the target in its clips, a list of strong negatives every event of any sound.
A list with `eval` as a word in its name belongs to the eval split, every other list to train.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from system.storage import S3FileManager, is_remote
from system.text import plural

from ..csv_tables import decode_text, errors_in, read_rows, refuse_line_breaks, split_header
from .sound_files import NAME, SUFFIXES
from .table_formats import PRESENCE, read_weak_texts

KINDS = ("pos_strong", "neg_strong", "weak")
GROUP = "group"  # name of a column, and the kind of a table that holds nothing else
FILES = ("filename", "path")
CLIPS = ("segment_id", "clip_id", "ytid", *FILES)
STARTS, ENDS = (
    ("start_time_seconds", "start_time", "start", "onset"),
    ("end_time_seconds", "end_time", "end", "offset"),
)
LABEL, WEAK_LABELS = ("label", "event_label"), ("positive_labels", "labels", "label")
EXCERPT = (("start_seconds", *STARTS), ("end_seconds", *ENDS))
# A whole word, so that "medieval" and "evaluate" do not count.
IN_EVAL = re.compile(r"(^|[^a-z])eval([^a-z]|$)")
# A file name without folder and without the suffix of a sound; other dots belong to the name.
STEM = r"^(?:.*/)?(?P<stem>[^/]*?)(?i:\.(?:" + "|".join(SUFFIXES) + r"))?$"


@dataclass(frozen=True)
class OwnList:
    """The rows of one list; columns (rows,).

    Attributes:
        kind: one of KINDS.
        where: the path of the list, for messages.
        files: clips are named by file names; then a YouTube id in the name counts only if the tables have that id.
        stems: name of the clip in the list, without folder and suffix.
        ytids: the YouTube id in that name, null for none.
        paths: path of the file if it has folders, else null.
        start, end: the excerpt in the video, s; NaN if the list does not give it.
        texts, label_rows: labels as written, and the row of each; empty for a list of positives without labels.
        event_start, event_end: s in the file; strong lists only.
        present: whether the sound occurs in the event; strong lists only.
        framed: the list has a column `present`.
        groups: recording or author of each row, null for none.
        first_line: line number of row 0 in the file.
    """

    kind: str
    where: str
    in_eval: bool
    files: bool
    stems: pa.Array
    ytids: pa.Array
    paths: pa.Array
    start: np.ndarray
    end: np.ndarray
    texts: pa.Array
    label_rows: np.ndarray
    event_start: np.ndarray | None = None
    event_end: np.ndarray | None = None
    present: np.ndarray | None = None
    framed: bool = False
    groups: pa.Array | None = None
    first_line: int = 2

    def __len__(self) -> int:
        return len(self.stems)

    def line(self, row: int) -> str:
        """Return path and line number of a row, for messages."""
        return f"{self.where} line {row + self.first_line}"


@dataclass(frozen=True)
class GroupTable:
    """The rows of a group table, with clips named as in an OwnList; columns (rows,)."""

    where: str
    stems: pa.Array
    ytids: pa.Array
    groups: pa.Array

    def match_clips(self, ids: pa.Array) -> pa.Array:
        """Return the position in `ids` of each row's clip (rows,), null for none: by name, else by YouTube id."""
        # Both are tried because clips of lists are called by their id only if AudioSet has it.
        positions = pc.index_in(pa.concat_arrays([self.stems, self.ytids]), value_set=ids, skip_nulls=True)
        return pc.coalesce(positions[: len(self.stems)], positions[len(self.stems) :])


@dataclass(frozen=True)
class OwnLists:
    """All of the user's lists and group tables."""

    lists: list[OwnList] = field(default_factory=list)
    groups: list[GroupTable] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)  # of all these files
    digest: str = ""  # of their content
    size: int = 0  # bytes


def read_lists(paths: dict[str, list[str]]) -> OwnLists:
    """Read the lists of each kind; raise ValueError with the line number for a malformed row."""
    digest = hashlib.blake2b(digest_size=16)
    lists, groups, read_from, size = [], [], [], 0
    for kind in (*KINDS, GROUP):
        for path in paths.get(kind, []):
            data = _read(kind, path)
            read_from.append(path)
            name = PurePosixPath(path).name
            in_eval = bool(IN_EVAL.search(PurePosixPath(name).stem.lower()))
            side = "both" if kind == GROUP else "eval" if in_eval else "train"
            # The digest covers the name because the name decides the split. A name may hold bytes that are not UTF-8.
            digest.update(f"{kind} {side} {name} {len(data)} ".encode(errors="surrogateescape") + data)
            size += len(data)
            if kind == GROUP:
                groups.append(read_groups(data, path))
                continue
            read = read_weak_list if kind == "weak" else read_strong_list
            lists.append(read(data, path, in_eval, kind))
    return OwnLists(lists, groups, read_from, digest.hexdigest(), size)


def read_groups(data: bytes, where: str) -> GroupTable:
    """Read a group table: one row per clip."""
    columns = _Columns(_read_csv(data, where), where)
    _, stems, ytids, *_ = columns.clips()
    groups = columns.get((GROUP,))
    columns.refuse_empty(groups, GROUP)
    return GroupTable(where, stems, ytids, groups)


def read_strong_list(data: bytes, where: str, in_eval: bool = False, kind: str = "pos_strong") -> OwnList:
    """Read a list of positives or of strong negatives: one row per event."""
    table = _read_csv(data, where)
    columns = _Columns(table, where)
    start, end = columns.numbers(STARTS), columns.numbers(ENDS)
    wrong = np.flatnonzero(~((start >= 0) & (end > start) & np.isfinite(end)))
    if len(wrong):
        raise ValueError(
            f"{where} line {wrong[0] + 2}: event from {start[wrong[0]]} to {end[wrong[0]]} s. The end must be after "
            "the start, and the start at least 0."
        )
    present = columns.get(("present",), needed=False)
    if present is not None:
        unknown = np.flatnonzero(~pc.is_in(present, value_set=pa.array(PRESENCE)).to_numpy(zero_copy_only=False))
        if len(unknown):
            value = present[int(unknown[0])].as_py()
            raise ValueError(f"{where} line {unknown[0] + 2}: present={value!r}: must be {' or '.join(PRESENCE)}.")
        present = pc.equal(present, PRESENCE[0]).to_numpy(zero_copy_only=False)
    texts = columns.get(LABEL, needed=kind != "pos_strong")
    if texts is not None:
        columns.refuse_empty(texts, "label")
    return OwnList(
        kind,
        where,
        in_eval,
        *columns.clips(),
        texts=pa.array([], pa.string()) if texts is None else texts,
        label_rows=np.zeros(0, np.int64) if texts is None else np.arange(len(texts)),
        event_start=start,
        event_end=end,
        present=np.ones(len(start), bool) if present is None else present,
        framed=present is not None,
        groups=columns.groups(),
    )


def read_weak_list(data: bytes, where: str, in_eval: bool = False, kind: str = "weak") -> OwnList:
    """Read a list of weak labels: one row per clip."""
    if data.startswith((b"#", b"empty")):  # the head of an official table
        table, skipped = read_weak_texts(data, where)
        lists = table["labels"].combine_chunks()
        return OwnList(
            kind,
            where,
            in_eval,
            files=False,
            stems=table["ytid"].combine_chunks(),
            ytids=table["ytid"].combine_chunks(),
            paths=pa.nulls(len(table), pa.string()),
            start=table["start_seconds"].to_numpy(),
            end=table["end_seconds"].to_numpy(),
            texts=lists.flatten(),
            label_rows=pc.list_parent_indices(lists).to_numpy().astype(np.int64),
            first_line=skipped + 1,
        )
    table = _read_csv(data, where)
    columns = _Columns(table, where)
    files, stems, ytids, paths, start, end = columns.clips()
    if columns.get(EXCERPT[0], needed=False) is not None:
        start, end = (columns.numbers(names) for names in EXCERPT)
        wrong = np.flatnonzero(~((start >= 0) & (end > start) & np.isfinite(end)))
        if len(wrong):
            raise ValueError(
                f"{where} line {wrong[0] + 2}: excerpt from {start[wrong[0]]} to {end[wrong[0]]} s. The end must be "
                "after the start, and the start at least 0."
            )
    cells = columns.get(WEAK_LABELS)
    columns.refuse_empty(cells, "labels")
    by_semicolon = pc.split_pattern_regex(cells, pattern=r"\s*;\s*")
    by_comma = pc.split_pattern_regex(cells, pattern=r"\s*,\s*")
    # Names contain commas ("Baby cry, infant cry"), so commas separate labels only in a cell of MIDs. These begin with
    # a slash.
    all_mids = pc.match_substring_regex(cells, r"^\s*/[^;]*$")
    lists = pa.ListArray.from_arrays(*_select_lists(all_mids.to_numpy(zero_copy_only=False), by_comma, by_semicolon))
    rows = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    texts = pc.utf8_trim_whitespace(lists.flatten())
    return OwnList(kind, where, in_eval, files, stems, ytids, paths, start, end, texts, rows, groups=columns.groups())


def _select_lists(first: np.ndarray, a: pa.ListArray, b: pa.ListArray) -> tuple[np.ndarray, pa.Array]:
    """Return offsets and values of the lists of `a` where `first` is true, else of `b`."""
    lengths = np.where(first, pc.list_value_length(a).to_numpy(), pc.list_value_length(b).to_numpy())
    keep_a = np.repeat(first, pc.list_value_length(a).to_numpy())
    keep_b = np.repeat(~first, pc.list_value_length(b).to_numpy())
    values = pa.concat_arrays([a.flatten().filter(pa.array(keep_a)), b.flatten().filter(pa.array(keep_b))])
    rows = np.concatenate([pc.list_parent_indices(a).to_numpy()[keep_a], pc.list_parent_indices(b).to_numpy()[keep_b]])
    order = np.argsort(rows, kind="stable")
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32), values.take(pa.array(order))


class _Columns:
    """Look up a list's columns by any of their accepted names."""

    def __init__(self, table: pa.Table, where: str) -> None:
        self.table, self.where = table, where
        self.names = {name.lower(): number for number, name in enumerate(table.column_names)}

    def get(self, names: Iterable[str], needed: bool = True) -> pa.Array | None:
        """Return the first of these columns that the table has, as stripped strings; None if it is not `needed`."""
        for name in names:
            if name in self.names:
                return pc.utf8_trim_whitespace(self.table.column(self.names[name]).combine_chunks())
        if needed:
            raise ValueError(f"{self.where}: no column {' or '.join(names)}, only {self.table.column_names}. Add one.")
        return None

    def numbers(self, names: Iterable[str]) -> np.ndarray:
        """Return the first of these columns that the table has, as float64."""
        texts = self.get(names)
        try:
            return texts.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            row = next(row for row, text in enumerate(texts.to_pylist()) if not _is_number(text))
            raise ValueError(
                f"{self.where} line {row + 2}: {texts[row].as_py()!r} is not a number. Give seconds."
            ) from None

    def refuse_empty(self, texts: pa.Array, column: str) -> None:
        """Raise ValueError with the line number of the first empty cell."""
        empty = np.flatnonzero(pc.equal(texts, "").to_numpy(zero_copy_only=False))
        if len(empty):
            raise ValueError(f"{self.where} line {empty[0] + 2}: {column} is empty. Fill it in, or remove the row.")

    def groups(self) -> pa.Array | None:
        """Return the group of each row, null for an empty cell; None without that column."""
        groups = self.get((GROUP,), needed=False)
        return None if groups is None else pc.if_else(pc.equal(groups, ""), None, groups)

    def clips(self) -> tuple[bool, pa.Array, pa.Array, pa.Array, np.ndarray, np.ndarray]:
        """Return `files`, `stems`, `ytids`, `paths`, `start` and `end` of an OwnList."""
        cells = self.get(CLIPS)
        self.refuse_empty(cells, "clip")
        files = next(name for name in CLIPS if name in self.names) in FILES
        stems = pc.extract_regex(cells, STEM).field("stem")
        parts = pc.extract_regex(stems, NAME)
        paths = pc.if_else(pc.match_substring(cells, "/"), cells, None)
        start = np.full(len(cells), np.nan)
        # Only a segment id, <id>_<ms>, has its start in milliseconds. In file names the number may also be seconds.
        segments = pc.match_substring_regex(stems, r"^Y?.{11}_\d+$").to_numpy(zero_copy_only=False)
        if segments.any() and not files:
            rows = np.flatnonzero(segments)
            start[rows] = parts.field("start").take(pa.array(rows)).cast(pa.float64()).to_numpy() / 1e3
        ytids = pc.if_else(parts.is_valid(), parts.field("ytid"), None)
        return files, stems, ytids, paths, start, np.full_like(start, np.nan)


def _is_number(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _read_csv(data: bytes, where: str) -> pa.Table:
    """Read a table of strings, separated by tabs if the header has any, else by commas."""
    data = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    header, _, below = data.partition(b"\n")
    if header and not below.strip():
        raise ValueError(f"{where}: no rows below the header. Add rows, or leave out the file.")
    separator = "\t" if b"\t" in header else ","
    with errors_in(where):
        decode_text(data)
        rows = read_rows(header, separator)
        split_header(rows)  # raises ValueError for two columns of one name
    names = [name.strip() for name in rows[0][1]] if rows else []
    if not any(names):
        raise ValueError(f"{where} line 1: no column names. Give a csv or tsv file with a header.")
    bad: list = []

    def note(row: pa.csv.InvalidRow) -> str:
        bad.append(row)
        return "skip"

    try:
        table = pa.csv.read_csv(
            pa.py_buffer(data),
            # pyarrow knows the line number of an invalid row only when it reads in one thread.
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 24, column_names=names, skip_rows=1),
            parse_options=pa.csv.ParseOptions(delimiter=separator, ignore_empty_lines=False, invalid_row_handler=note),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{where}: not a csv or tsv file: {str(error).splitlines()[0]}") from None
    if bad:
        cells, expected = bad[0].actual_columns, bad[0].expected_columns
        raise ValueError(
            f"{where} line {bad[0].number}: {plural(cells, 'cell')}, but the header has {expected}. Quote cells that "
            "contain the separator."
        )
    with errors_in(where):
        refuse_line_breaks(table, 2)
    return table


def _read(kind: str, path: str) -> bytes:
    try:
        return S3FileManager.shared().read_bytes(path) if is_remote(path) else Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"--{kind}_paths {path}: could not be read: {error.strerror or error}.") from error
