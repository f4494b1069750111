"""Read the csv tables of raw data strictly: a damaged table is an error with its line, never a table with fewer rows.

With rows skipped, a data set would look complete but have other ids, splits and scores.

- Errors: bytes that are not UTF-8, zero bytes, an unclosed quote or text after a quote, a line break in a cell, more
  or fewer cells than columns, two columns of one name.
- Accepted: a byte order mark, any line end, blanks around cells, empty cells after the last column.
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

MISSING = ("", "nan", "na", "n/a", "null", "none")  # cells without a number, compared in lower case
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
QUOTE_HINT = "look for a quote that is not closed"
Row = tuple[int, list[str]]  # line number from 1, cells


def read_table(root: RawFolder, name: str, needed: tuple[str, ...], defects: list[dict]) -> list[dict[str, str]]:
    """Read a table of a raw folder into dicts, with the column names in lower case; empty rows are skipped.

    Args:
        needed: columns that must exist (in any case), else ValueError.
        defects: gets a defect if column names have blanks around them.
    """
    header, rows = read_columns(root.read(name), root.where(name), needed)
    defects += blank_defects(header, name)
    return [cells for _, cells in by_name(header, rows) if any(cells.values())]


def by_name(header: list[str], rows: list[Row]) -> list[tuple[int, dict[str, str]]]:
    """Return each row as its line number and a dict, with the column names in lower case."""
    names = [name.strip().lower() for name in header]
    return [(line, dict(zip(names, cells, strict=True))) for line, cells in rows]


def read_columns(data: bytes | str, where: str, needed: tuple[str, ...] = ()) -> tuple[list[str], list[Row]]:
    """Read the header, as written, and the rows, each with one cell per column.

    A ValueError names the table (as `where`) and the line. `needed` columns are compared without case.
    """
    with errors_in(where):
        header, rows = split_header(read_rows(data))
        names = [name.strip().lower() for name in header]
        missing = [name for name in needed if name.lower() not in names]
        if missing:
            raise ValueError(f"lacks the columns {missing}; it has {header} (cut at commas)")
        return header, [(line, fit_row(line, cells, len(header))) for line, cells in rows]


@contextmanager
def errors_in(where: str) -> Iterator[None]:
    """Prefix the message of a ValueError with the name of a table."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None


def read_rows(
    data: bytes | str, separator: str = ",", line_breaks: bool = False, skip_blanks: bool = False
) -> list[Row]:
    """Read all rows, the header included; an empty line is a row without cells. A ValueError begins with the line.

    Args:
        line_breaks: whether a cell may have several lines, as numpy prints a long array.
        skip_blanks: whether blanks may come before a quote.
    """
    text = decode_text(data) if isinstance(data, bytes) else data
    # newline=None turns every kind of line end into \n. `strict` makes text after a closing quote an error.
    reader = csv.reader(
        io.StringIO(text, newline=None), delimiter=separator, skipinitialspace=skip_blanks, strict=True
    )
    rows, line = [], 1
    try:
        for cells in reader:
            # A quote that is never closed would silently merge all rows up to the next quote into one cell.
            if reader.line_num > line and not line_breaks:
                raise ValueError(f"line {line}: a cell continues in the next line; {QUOTE_HINT}")
            rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {line}: {error}; {QUOTE_HINT}") from None
    return rows


def decode_text(data: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark; a ValueError begins with the line of the first bad byte."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = line_of(data, error.start)
        raise ValueError(f"line {line} is not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    refuse_zero_bytes(data)
    return text


def refuse_zero_bytes(data: bytes) -> None:
    """Raise a ValueError that begins with the line of the first zero byte."""
    # Zero bytes are valid UTF-8, but in a table they mean UTF-16 or a damaged disk.
    if b"\0" in data:
        line = line_of(data, data.index(b"\0"))
        raise ValueError(f"line {line} holds zero bytes, so it is not UTF-8 text; save the file as UTF-8")


def line_of(data: bytes, position: int) -> int:
    """Return the number, from 1, of the line that a byte is in."""
    return data.count(b"\n", 0, position) + 1


def split_header(rows: list[Row]) -> tuple[list[str], list[Row]]:
    """Split rows into the header (as written, without empty cells at its end) and the rows below it.

    Empty lines are skipped, and the cells below the header are stripped. ValueError if two columns have one name.
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
    """Return a row's cells, one per column; ValueError if it has more or fewer, unless all of them are empty."""
    if any(cells[width:]) or (len(cells) < width and any(cells)):
        raise ValueError(
            f"line {line}: {plural(len(cells), 'cell')} where the header has {width} ({','.join(cells)[:40]!r}); "
            "quote text that holds a comma"
        )
    return (cells + [""] * width)[:width]


def refuse_line_breaks(table: pa.Table, first_line: int) -> None:
    """Raise ValueError if a text cell of a pyarrow table has a line break: an unclosed quote merged several lines."""
    for column in table.columns:
        if pa.types.is_string(column.type):
            merged = pc.match_substring(column, "\n").to_numpy()
            if merged.any():
                raise ValueError(
                    f"line {np.argmax(merged) + first_line}: a cell continues in the next line; {QUOTE_HINT}"
                )


def damaged_line(data: bytes, separator: str, width: int, skipped: int, numbers: tuple[int, ...] = ()) -> str | None:
    """Return the first damaged line of a table and its problem, or None. pyarrow's own errors do not name the line.

    Args:
        width: number of columns.
        skipped: number of lines before the rows.
        numbers: indices of the columns that must hold numbers.
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
        for column in numbers if line.strip() else ():
            try:
                float(cells[column])
            except ValueError:
                return f"line {number}: {cells[column][:40]!r} is not a number"
    return None


def parse_number(cell: str | None) -> float:
    """Parse a finite decimal number; NaN for a cell in MISSING, ValueError for anything else."""
    if cell is None or cell.strip().lower() in MISSING:
        return math.nan
    # `float` alone would also accept 1_0, inf and digits of other scripts.
    value = float(cell) if DECIMAL.fullmatch(cell.strip()) else math.nan
    if not math.isfinite(value):
        raise ValueError(f"{cell[:40]!r} is not a number")
    return value


def blank_defects(names: list[str], detail: str) -> list[dict]:
    """Return a defect if column names have blanks around them, else an empty list."""
    blank = sum(name != name.strip() for name in names)
    return [make_defect("stray_blanks_in_header", blank, detail=detail)] if blank else []
