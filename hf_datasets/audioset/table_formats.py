"""Parse AudioSet's published tables: weak labels of clips, strong labels of events, and the names of labels.

    unbalanced_train_segments.csv   # comments, then: YTID, start_seconds, end_seconds, "mid,mid,..."
    unbalanced_train_segments_part07.csv    the same in parts of 50,000 rows, after three lines "empty"
    audioset_train_strong.tsv       segment_id, start_time_seconds, end_time_seconds, label [, present]
    class_labels_indices.csv        index,mid,display_name: the 527 weak labels in the order of published models
    mid_to_display_name.tsv         mid and name of the 456 strong labels, no header

Times in weak tables are seconds in the video, times in strong tables seconds in the excerpt. Ids have 11 characters,
may begin with `-` and contain `_`. Malformed rows raise a ValueError with the line number.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from media.audioset import Labels, id_uniforms
from system.text import plural

from ..csv_tables import (
    by_name,
    damaged_line,
    decode_text,
    errors_in,
    line_of,
    read_columns,
    refuse_line_breaks,
    refuse_zero_bytes,
)

YTID = r"^[A-Za-z0-9_-]{11}$"
PART_HEADER = b"empty"
COUNTS = re.compile(rb"num_(\w+)=(\d+)")
ROWS_PER_PART = 50_000  # of the unbalanced table, whose sounds are in 41 folders, one per part
PRESENCE = ("PRESENT", "NOT_PRESENT")


def read_labels(data: bytes, where: str) -> Labels:
    """Read `class_labels_indices.csv`, or `mid_to_display_name.tsv`, which has tabs and no header."""
    with errors_in(where):
        text = decode_text(data)
    if text.startswith("index,"):
        rows = by_name(*read_columns(text, where, ("index", "mid", "display_name")))
        pairs = []
        for number, (line, row) in enumerate(rows):
            if row["index"] != str(number):
                raise ValueError(f"{where} line {line}: index={row['index']}: must be {number}. Download it again.")
            pairs.append((row["mid"], row["display_name"]))
    else:
        lines = [(number, line.split("\t")) for number, line in enumerate(text.splitlines(), start=1) if line]
        wrong = next((number for number, cells in lines if len(cells) != 2), None)
        if wrong:
            raise ValueError(f"{where} line {wrong}: not a MID, a tab and a name. Download the table again.")
        pairs = [tuple(cells) for _, cells in lines]
    if not pairs:
        raise ValueError(f"{where}: no labels. Download the table again.")
    mids, names = zip(*pairs, strict=True)
    if len(set(mids)) != len(mids):
        raise ValueError(f"{where}: {plural(len(mids) - len(set(mids)), 'MID')} repeated. Download the table again.")
    return Labels(mids, names)


def read_weak(data: bytes, labels: Labels, where: str) -> pa.Table:
    """Read a weak table: ytid, start_seconds, end_seconds, labels (list of int16, positions in `labels`).

    Raise ValueError also if the counts in the comments are not those of the rows: the file was cut off.
    """
    table, skipped = read_weak_texts(data, where)
    lists = table["labels"].combine_chunks()
    codes = pc.index_in(lists.values, value_set=pa.array(labels.mids))
    if codes.null_count:
        unknown = int(np.flatnonzero(codes.is_null().to_numpy(zero_copy_only=False))[0])
        row = int(np.searchsorted(lists.offsets.to_numpy(), unknown, side="right")) - 1
        raise ValueError(
            f"{where} line {row + skipped + 1}: label={lists.values[unknown].as_py()!r}: not in the table of labels. "
            "Use tables of the same release."
        )
    return table.set_column(3, "labels", pa.ListArray.from_arrays(lists.offsets, codes.cast(pa.int16())))


def read_weak_texts(data: bytes, where: str) -> tuple[pa.Table, int]:
    """Read a weak table as `read_weak` does, but with MIDs (list of string), and count the lines before the rows."""
    announced, skipped, begin = _read_head(data, where)
    with errors_in(where):
        refuse_zero_bytes(data)
    if not re.compile(rb"\S").search(data, begin):
        raise ValueError(f"{where}: no rows below the header. Download the table again.")
    # Cells are separated by a comma and a blank, labels within a cell by a comma alone. pyarrow accepts only one
    # character, so the separator becomes a tab.
    rows = pa.py_buffer(data.replace(b", ", b"\t")).slice(len(data[:begin].replace(b", ", b"\t")))
    try:
        table = pa.csv.read_csv(
            rows,
            read_options=pa.csv.ReadOptions(column_names=["ytid", "start_seconds", "end_seconds", "labels"]),
            parse_options=pa.csv.ParseOptions(delimiter="\t", ignore_empty_lines=True),
            convert_options=pa.csv.ConvertOptions(
                column_types={
                    "ytid": pa.string(),
                    "start_seconds": pa.float64(),
                    "end_seconds": pa.float64(),
                    "labels": pa.string(),
                },
                null_values=[],
                strings_can_be_null=False,
            ),
        ).combine_chunks()
    except pa.ArrowInvalid as error:
        problem = damaged_line(data, ", ", 4, skipped, (1, 2)) or str(error).splitlines()[0]
        raise ValueError(f'{where} {problem}. Rows must be YTID, start, end, "mid,mid".') from None
    with errors_in(where):
        refuse_line_breaks(table, skipped + 1)
    _check_rows(table, where, skipped)
    lists = pc.split_pattern(table["labels"].combine_chunks(), ",")
    _check_counts(announced, table, lists.values, where)
    return table.set_column(3, "labels", lists), skipped


def read_strong(data: bytes, where: str) -> pa.Table:
    """Read a strong table.

    Returns the columns ytid, clip_start_ms (start of the excerpt in the video), start_seconds and end_seconds (of the
    event in the excerpt), label (MID), and present (true without that column in the file).
    """
    with errors_in(where):
        refuse_zero_bytes(data)
        # Quotes are read as text below, and no MID or id contains one: it is a sign of damage.
        if b'"' in data:
            line = line_of(data, data.index(b'"'))
            raise ValueError(f"line {line}: unexpected quote. Remove it.")
        header = decode_text(data[: data.find(b"\n") + 1 or len(data)]).strip().split("\t")
    needed = ["segment_id", "start_time_seconds", "end_time_seconds", "label"]
    if header[:4] != needed or header[4:] not in ([], ["present"]):
        raise ValueError(f"{where}: header {header}. It must be {needed}, and `present` in framed tables.")
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(data.removeprefix(b"\xef\xbb\xbf")),
            read_options=pa.csv.ReadOptions(column_names=header, skip_rows=1),
            parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(("segment_id", "label", "present"), pa.string())
                | dict.fromkeys(needed[1:3], pa.float64()),
                null_values=[],
                strings_can_be_null=False,
            ),
        ).combine_chunks()
    except pa.ArrowInvalid as error:
        problem = damaged_line(data, "\t", len(header), 1, (1, 2)) or str(error).splitlines()[0]
        raise ValueError(f"{where} {problem}") from None
    # Not split at `_`, which ids may contain.
    parts = pc.extract_regex(
        table["segment_id"], r"^(?P<ytid>[A-Za-z0-9_-]{11})_(?P<clip_start_ms>\d{1,12})$"
    ).combine_chunks()
    if parts.null_count:
        row = int(np.flatnonzero(parts.is_null().to_numpy(zero_copy_only=False))[0])
        segment = table["segment_id"][row].as_py()
        raise ValueError(
            f"{where} line {row + 2}: segment_id={segment!r}: must be <id of 11 characters>_<milliseconds>."
        )
    columns = {
        "ytid": parts.field("ytid"),
        "clip_start_ms": parts.field("clip_start_ms").cast(pa.int64()),
        "start_seconds": table["start_time_seconds"].combine_chunks(),
        "end_seconds": table["end_time_seconds"].combine_chunks(),
        "label": table["label"].combine_chunks(),
    }
    if "present" in header:
        wrong = [value for value in pc.unique(table["present"]).to_pylist() if value not in PRESENCE]
        if wrong:
            raise ValueError(f"{where}: present={wrong[0]!r}: must be {' or '.join(PRESENCE)}.")
        columns["present"] = pc.equal(table["present"], "PRESENT").combine_chunks()
    else:
        columns["present"] = pa.array(np.ones(len(table), bool))
    strong = pa.table(columns)
    _check_times(strong, where, 1)
    return strong


def _read_head(data: bytes, where: str) -> tuple[dict[str, int], int, int]:
    """Return the counts in the comments, the number of lines before the rows, and the byte where the rows begin."""
    announced: dict[str, int] = {}
    begin, lines = 3 if data.startswith(b"\xef\xbb\xbf") else 0, 0  # after a byte order mark
    while data.startswith((b"#", PART_HEADER), begin):
        end = data.find(b"\n", begin) + 1 or len(data)
        announced |= {name.decode(): int(count) for name, count in COUNTS.findall(data[begin:end])}
        begin, lines = end, lines + 1
    if not lines:
        raise ValueError(
            f"{where}: no comment lines at the top, so it is not one of AudioSet's tables. Download it again."
        )
    return announced, lines, begin


def _check_rows(table: pa.Table, where: str, skipped: int) -> None:
    fits = pc.match_substring_regex(table["ytid"], YTID)
    if not pc.all(fits).as_py():
        row = int(np.flatnonzero(~fits.to_numpy(zero_copy_only=False))[0])
        ytid = table["ytid"][row].as_py()
        raise ValueError(f"{where} line {row + skipped + 1}: YTID={ytid!r}: must have 11 characters.")
    _check_times(table, where, skipped)


def _check_times(table: pa.Table, where: str, skipped: int) -> None:
    start, end = table["start_seconds"].to_numpy(), table["end_seconds"].to_numpy()
    wrong = np.flatnonzero(~((start >= 0) & (end > start) & np.isfinite(end)))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{where} line {row + skipped + 1}: from {start[row]} to {end[row]} s. The end must be after the start, "
            "and the start at least 0."
        )


def _check_counts(announced: dict[str, int], table: pa.Table, labels: pa.Array, where: str) -> None:
    # Counting hashes is faster than counting strings. Two ids may have the same hash, so count strings if some repeat.
    distinct = len(np.unique(id_uniforms(table["ytid"], 0)))
    counts = {
        "ytids": distinct if distinct == len(table) else pc.count_distinct(table["ytid"]).as_py(),
        "segs": len(table),
        "unique_labels": pc.count_distinct(labels).as_py(),
        "positive_labels": len(labels),
    }
    for name, count in counts.items():
        if announced.get(name, count) != count:
            raise ValueError(
                f"{where}: num_{name}={announced[name]} in the header, but {count} in the rows. Download it again."
            )
