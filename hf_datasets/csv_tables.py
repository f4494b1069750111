"""The one reader of csv tables of raw data, which never takes a damaged line for a part of its neighbours.

A damaged table is refused with the line, not read in part: with rows left out, a data set would look whole and have
other ids, splits and scores. Damaged are bytes that are not UTF-8, zero bytes, a quote that is not closed or has text
after it, a line break in a cell, more or fewer cells than columns, and two columns of one name. A byte order mark, any
line end, blanks around cells and empty cells after the last column are read.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from system.text import plural

from .defects import make_defect
from .raw_files import RawFolder

MISSING = ("", "nan", "na", "n/a", "null", "none")  # cells that say "no number", in any case
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
QUOTE_HINT = "look for a quote that is not closed"
Row = tuple[int, list[str]]  # its line, and its cells


def read_table(root: RawFolder, name: str, needed: tuple[str, ...], defects: list[dict]) -> list[dict[str, str]]:
    """The rows of a table in a raw folder, by its column names in lower case; those without any text are left out."""
    header, rows = read_columns(root.read(name), root.where(name), needed)
    defects += blank_defects(header, name)
    return [cells for _, cells in by_name(header, rows) if any(cells.values())]


def by_name(header: list[str], rows: list[Row]) -> list[tuple[int, dict[str, str]]]:
    """The line of each row, and its cells by their column's name in lower case."""
    names = [name.strip().lower() for name in header]
    return [(line, dict(zip(names, cells, strict=True))) for line, cells in rows]


def read_columns(data: bytes | str, where: str, needed: tuple[str, ...] = ()) -> tuple[list[str], list[Row]]:
    """The header as it is written, and the rows, each with a cell for each column. Case of columns does not matter.

    ValueError names the table, as `where`, and the line.
    """
    with errors_in(where):
        header, rows = split_header(read_rows(data))
        names = [name.strip().lower() for name in header]
        lacking = [name for name in needed if name.lower() not in names]
        if lacking:
            raise ValueError(f"lacks the columns {lacking}; it has {header} (cut at commas)")
        return header, [(line, fit_row(line, cells, len(header))) for line, cells in rows]


@contextmanager
def errors_in(where: str) -> Iterator[None]:
    """Put a table's name before what a ValueError says."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None


def read_rows(
    data: bytes | str, separator: str = ",", line_breaks: bool = False, skip_blanks: bool = False
) -> list[Row]:
    """All rows; an empty line has no cells. ValueError begins with the line.

    Args:
        line_breaks: whether cells may have several lines, as an array that was printed into one.
        skip_blanks: whether blanks may come before a quote.
    """
    text = decode_text(data) if isinstance(data, bytes) else data
    reader = csv.reader(
        io.StringIO(text, newline=None), delimiter=separator, skipinitialspace=skip_blanks, strict=True
    )
    rows, line = [], 1
    try:
        for cells in reader:
            if reader.line_num > line and not line_breaks:
                raise ValueError(f"line {line}: a cell continues in the next line; {QUOTE_HINT}")
            rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {line}: {error}; {QUOTE_HINT}") from None
    return rows


def decode_text(data: bytes) -> str:
    """UTF-8 text without a byte order mark; ValueError begins with the line of what is none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = line_of(data, error.start)
        raise ValueError(f"line {line} is not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    refuse_zero_bytes(data)
    return text


def refuse_zero_bytes(data: bytes) -> None:
    """ValueError that begins with the line of the first zero byte, which UTF-16 has and a damaged disk leaves."""
    if b"\0" in data:
        line = line_of(data, data.index(b"\0"))
        raise ValueError(f"line {line} holds zero bytes, so it is not UTF-8 text; save the file as UTF-8")


def line_of(data: bytes, place: int) -> int:
    """The number of the line, from 1, that a byte is in."""
    return data.count(b"\n", 0, place) + 1


def split_header(rows: list[Row]) -> tuple[list[str], list[Row]]:
    """The first line that is not empty, as written, without empty cells at its end, and the rows below.

    Their cells are without blanks around them; empty lines are left out.
    """
    (_, header), *below = [(line, cells) for line, cells in rows if cells] or [(1, [])]
    while header and not header[-1].strip():
        header = header[:-1]
    counts = Counter(name.strip().lower() for name in header)
    repeated = [name for name, count in counts.items() if name and count > 1]
    if repeated:
        raise ValueError(f"has the columns {repeated} more than once; keep one of each")
    return header, [(line, [cell.strip() for cell in cells]) for line, cells in below]


def fit_row(line: int, cells: list[str], width: int) -> list[str]:
    """The cells of a row, one for each column; a row without any text may have any number of them."""
    if any(cells[width:]) or (len(cells) < width and any(cells)):
        raise ValueError(
            f"line {line}: {plural(len(cells), 'cell')} where the header has {width} ({','.join(cells)[:40]!r}); "
            "quote text that holds a comma"
        )
    return (cells + [""] * width)[:width]


def refuse_line_breaks(table: pa.Table, first_line: int) -> None:
    """ValueError where a text of a table that pyarrow has read holds a line break: lines that a quote has merged."""
    for column in table.columns:
        if pa.types.is_string(column.type):
            merged = pc.match_substring(column, "\n").to_numpy()
            if merged.any():
                raise ValueError(
                    f"line {np.argmax(merged) + first_line}: a cell continues in the next line; {QUOTE_HINT}"
                )


def damaged_line(data: bytes, separator: str, width: int, skipped: int, numbers: tuple[int, ...] = ()) -> str | None:
    """The first line that does not fit, and why; for a table that pyarrow refused.

    `skipped` lines come before the rows, and the columns `numbers` take numbers.
    """
    for number, line in enumerate(data.splitlines()[skipped:], start=skipped + 1):
        try:
            cells = line.decode().split(separator)
        except UnicodeDecodeError:
            return f"line {number} is not UTF-8 text; save the file as UTF-8"
        if line.count(b'"') % 2:
            return f"line {number}: {QUOTE_HINT}"
        if line.strip() and len(cells) != width:
            return f"line {number}: {plural(len(cells), 'cell')} where {width} should be"
        for place in numbers if line.strip() else ():
            try:
                float(cells[place])
            except ValueError:
                return f"line {number}: {cells[place][:40]!r} is not a number"
    return None


def parse_number(cell: str | None) -> float:
    """The finite decimal number in a cell, NaN for a cell that says there is none; ValueError for all else."""
    if cell is None or cell.strip().lower() in MISSING:
        return math.nan
    value = float(cell) if DECIMAL.fullmatch(cell.strip()) else math.nan  # float takes 1_0, inf and digits of others
    if not math.isfinite(value):
        raise ValueError(f"{cell[:40]!r} is not a number")
    return value


def blank_defects(names: list[str], detail: str) -> list[dict]:
    """A defect when column names have blanks around them."""
    blank = sum(name != name.strip() for name in names)
    return [make_defect("stray_blanks_in_header", blank, detail=detail)] if blank else []
