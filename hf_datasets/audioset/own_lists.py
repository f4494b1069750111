"""People's own lists of clips: for any target, in place of AudioSet's tables or beside them.

A list is a tsv or csv with a header, or an official weak table. Its columns, whatever their case:

    what          columns
    clip          segment_id (<id>_<ms>), clip_id, ytid; or filename, path: a file below --audio_root
    event         start_time_seconds, start_time, start, onset; end_time_seconds, end_time, end, offset (s in the file)
    its label     label, event_label; a list of positives may do without, its events are of the target
    presence      present: PRESENT or NOT_PRESENT; without it all are present
    weak labels   positive_labels, labels, label: MIDs with commas between them, or names with semicolons
    excerpt       start_seconds, end_seconds of weak lists: seconds in the video; may be left out
    group         group: recording, uploader or author; clips of one group are never on two sides; may be left out

A table of groups has the columns clip and group alone.

Lists of positives and of strong negatives hold every event, of the target or of all sounds, in their clips. A list
with `eval` as a word in its name belongs to the eval split, every other one to train.
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
GROUP = "group"  # a column, and the kind of a table that holds only that
FILES = ("filename", "path")
CLIPS = ("segment_id", "clip_id", "ytid", *FILES)
STARTS, ENDS = (
    ("start_time_seconds", "start_time", "start", "onset"),
    ("end_time_seconds", "end_time", "end", "offset"),
)
LABEL, WEAK_LABELS = ("label", "event_label"), ("positive_labels", "labels", "label")
EXCERPT = (("start_seconds", *STARTS), ("end_seconds", *ENDS))
IN_EVAL = re.compile(r"(^|[^a-z])eval([^a-z]|$)")
STEM = r"^(?:.*/)?(?P<stem>[^/]*?)(?i:\.(?:" + "|".join(SUFFIXES) + r"))?$"


@dataclass(frozen=True)
class OwnList:
    """The rows of one list; columns (rows,).

    Attributes:
        stems: what the clip is called in the list, without folder and suffix.
        ytids: the id in it, null where it has none; `start` and `end` of the excerpt in s, NaN where not told.
        paths: where the list names a file in a folder, else null.
        files: whether clips are named by their files, so that an id counts only where AudioSet has that clip.
        texts, label_rows: labels as they are written, and the row of each; empty for a list of positives without.
        event_start, event_end, present: of strong lists.
        framed: whether the list says of each row if the sound is there.
        groups: recording or author of each row, null for none.
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
        """Where a row stands, for people."""
        return f"{self.where} line {row + self.first_line}"


@dataclass(frozen=True)
class GroupTable:
    """The rows of a table of groups, their clips named as in an OwnList; columns (rows,)."""

    where: str
    stems: pa.Array
    ytids: pa.Array
    groups: pa.Array

    def clips_among(self, ids: pa.Array) -> pa.Array:
        """The position of each row's clip (rows,), null for none: the clip of that name, else the one of its id.

        Lists name a clip in either way, by whether AudioSet has its id.
        """
        found = pc.index_in(pa.concat_arrays([self.stems, self.ytids]), value_set=ids, skip_nulls=True)
        return pc.coalesce(found[: len(self.stems)], found[len(self.stems) :])


@dataclass(frozen=True)
class OwnLists:
    """All lists, tables of groups, the paths that they were read from, and a digest of their content."""

    lists: list[OwnList] = field(default_factory=list)
    groups: list[GroupTable] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    digest: str = ""
    size: int = 0  # bytes


def read_lists(paths: dict[str, list[str]]) -> OwnLists:
    """Read the lists of each kind; ValueError with the line for what does not fit."""
    digest = hashlib.blake2b(digest_size=16)
    lists, groups, read_from, size = [], [], [], 0
    for kind in (*KINDS, GROUP):
        for path in paths.get(kind, []):
            data = _read(kind, path)
            read_from.append(path)
            name = PurePosixPath(path).name
            in_eval = bool(IN_EVAL.search(PurePosixPath(name).stem.lower()))
            side = "both" if kind == GROUP else "eval" if in_eval else "train"
            digest.update(f"{kind} {side} {name} {len(data)} ".encode(errors="surrogateescape") + data)
            size += len(data)
            if kind == GROUP:
                groups.append(read_groups(data, path))
                continue
            read = read_weak_list if kind == "weak" else read_strong_list
            lists.append(read(data, path, in_eval, kind))
    return OwnLists(lists, groups, read_from, digest.hexdigest(), size)


def read_groups(data: bytes, where: str) -> GroupTable:
    """A table of groups, one row per clip."""
    columns = _Columns(_read_csv(data, where), where)
    _, stems, ytids, *_ = columns.clips()
    groups = columns.get((GROUP,))
    columns.refuse_empty(groups, GROUP)
    return GroupTable(where, stems, ytids, groups)


def read_strong_list(data: bytes, where: str, in_eval: bool = False, kind: str = "pos_strong") -> OwnList:
    """A list of events: a row an event."""
    table = _read_csv(data, where)
    columns = _Columns(table, where)
    start, end = columns.numbers(STARTS), columns.numbers(ENDS)
    wrong = np.flatnonzero(~((start >= 0) & (end > start) & np.isfinite(end)))
    if len(wrong):
        raise ValueError(f"{where} line {wrong[0] + 2}: the event lasts from {start[wrong[0]]} to {end[wrong[0]]} s")
    present = columns.get(("present",), needed=False)
    if present is not None:
        unknown = np.flatnonzero(~pc.is_in(present, value_set=pa.array(PRESENCE)).to_numpy(zero_copy_only=False))
        if len(unknown):
            found = present[int(unknown[0])].as_py()
            raise ValueError(f"{where} line {unknown[0] + 2}: present is {found!r}; it takes {' or '.join(PRESENCE)}")
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
    """A list of clips with the sounds that are heard in them: a row a clip."""
    if data.startswith((b"#", b"empty")):
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
            raise ValueError(f"{where} line {wrong[0] + 2}: it lasts from {start[wrong[0]]} to {end[wrong[0]]} s")
    written = columns.get(WEAK_LABELS)
    columns.refuse_empty(written, "labels")
    lists = pc.split_pattern_regex(written, pattern=r"\s*;\s*")
    commas = pc.split_pattern_regex(written, pattern=r"\s*,\s*")
    all_mids = pc.match_substring_regex(written, r"^\s*/[^;]*$")  # names hold commas, MIDs begin with a /
    lists = pa.ListArray.from_arrays(*_chosen(all_mids.to_numpy(zero_copy_only=False), commas, lists))
    rows = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    texts = pc.utf8_trim_whitespace(lists.flatten())
    return OwnList(kind, where, in_eval, files, stems, ytids, paths, start, end, texts, rows, groups=columns.groups())


def _chosen(first: np.ndarray, a: pa.ListArray, b: pa.ListArray) -> tuple[np.ndarray, pa.Array]:
    """Offsets and values of lists that are a's where `first`, else b's."""
    lengths = np.where(first, pc.list_value_length(a).to_numpy(), pc.list_value_length(b).to_numpy())
    keep_a = np.repeat(first, pc.list_value_length(a).to_numpy())
    keep_b = np.repeat(~first, pc.list_value_length(b).to_numpy())
    values = pa.concat_arrays([a.flatten().filter(pa.array(keep_a)), b.flatten().filter(pa.array(keep_b))])
    rows = np.concatenate([pc.list_parent_indices(a).to_numpy()[keep_a], pc.list_parent_indices(b).to_numpy()[keep_b]])
    order = np.argsort(rows, kind="stable")
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32), values.take(pa.array(order))


class _Columns:
    """A list's columns by any of their names."""

    def __init__(self, table: pa.Table, where: str) -> None:
        self.table, self.where = table, where
        self.names = {name.lower(): place for place, name in enumerate(table.column_names)}

    def get(self, names: Iterable[str], needed: bool = True) -> pa.Array | None:
        """Texts of the first of these columns that is there, without blanks around them."""
        for name in names:
            if name in self.names:
                return pc.utf8_trim_whitespace(self.table.column(self.names[name]).combine_chunks())
        if needed:
            raise ValueError(
                f"{self.where} has the columns {self.table.column_names}; it needs one of {', '.join(names)}"
            )
        return None

    def numbers(self, names: Iterable[str]) -> np.ndarray:
        """The same as float64."""
        texts = self.get(names)
        try:
            return texts.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            row = next(row for row, text in enumerate(texts.to_pylist()) if not _is_number(text))
            raise ValueError(f"{self.where} line {row + 2}: {texts[row].as_py()!r} is no number of seconds") from None

    def refuse_empty(self, texts: pa.Array, what: str) -> None:
        """ValueError where a cell holds nothing."""
        empty = np.flatnonzero(pc.equal(texts, "").to_numpy(zero_copy_only=False))
        if len(empty):
            raise ValueError(f"{self.where} line {empty[0] + 2}: there is no {what}")

    def groups(self) -> pa.Array | None:
        """The group of each row, null where the cell is empty; None without that column."""
        found = self.get((GROUP,), needed=False)
        return None if found is None else pc.if_else(pc.equal(found, ""), None, found)

    def clips(self) -> tuple[bool, pa.Array, pa.Array, pa.Array, np.ndarray, np.ndarray]:
        """`files`, `stems`, `ytids`, `paths`, `start` and `end` of an OwnList."""
        named = self.get(CLIPS)
        self.refuse_empty(named, "clip")
        files = next(name for name in CLIPS if name in self.names) in FILES
        stems = pc.extract_regex(named, STEM).field("stem")
        told = pc.extract_regex(stems, NAME)
        paths = pc.if_else(pc.match_substring(named, "/"), named, None)
        start = np.full(len(named), np.nan)
        segments = pc.match_substring_regex(stems, r"^Y?.{11}_\d+$").to_numpy(zero_copy_only=False)
        if segments.any() and not files:
            which = np.flatnonzero(segments)
            start[which] = told.field("start").take(pa.array(which)).cast(pa.float64()).to_numpy() / 1e3
        ytids = pc.if_else(told.is_valid(), told.field("ytid"), None)
        return files, stems, ytids, paths, start, np.full_like(start, np.nan)


def _is_number(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _read_csv(data: bytes, where: str) -> pa.Table:
    """A table of texts; the separator is a tab where the header has one."""
    data = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    header, _, below = data.partition(b"\n")
    if header and not below.strip():
        raise ValueError(f"{where} has no rows below its header")
    separator = "\t" if b"\t" in header else ","
    with errors_in(where):
        decode_text(data)
        rows = read_rows(header, separator)
        split_header(rows)  # refuses two columns of one name
    names = [name.strip() for name in rows[0][1]] if rows else []
    if not any(names):
        raise ValueError(f"{where} is no table of texts: line 1 has no names of columns")
    bad: list = []

    def note(row: pa.csv.InvalidRow) -> str:
        bad.append(row)
        return "skip"

    try:
        table = pa.csv.read_csv(
            pa.py_buffer(data),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 24, column_names=names, skip_rows=1),
            parse_options=pa.csv.ParseOptions(delimiter=separator, ignore_empty_lines=False, invalid_row_handler=note),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{where} is no table of texts: {str(error).splitlines()[0]}") from None
    if bad:
        cells, expected = bad[0].actual_columns, bad[0].expected_columns
        raise ValueError(f"{where} line {bad[0].number}: {plural(cells, 'cell')}, where the header has {expected}")
    with errors_in(where):
        refuse_line_breaks(table, 2)
    return table


def _read(kind: str, path: str) -> bytes:
    try:
        return S3FileManager.shared().read_bytes(path) if is_remote(path) else Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"--{kind}_paths {path}: {error.strerror or error}") from error
