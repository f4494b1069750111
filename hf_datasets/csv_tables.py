"""Csv tables of a raw corpus: a header that must have certain columns, cells that are numbers or say there is none."""

import csv
import io
import math

from .defects import make_defect
from .raw_files import RawFolder

MISSING = ("", "nan", "na", "n/a", "null", "none")  # cells that say "no number", in any case


def read_table(root: RawFolder, name: str, needed: tuple[str, ...], defects: list[dict]) -> list[dict[str, str]]:
    """The rows of a table by its column names in lower case, without blanks; ValueError says what cannot be read."""
    try:
        text = root.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{root.where(name)} is not UTF-8 text (byte {error.start}); save it again as UTF-8"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=None))  # any kind of line end
    try:
        header, *rows = reader if text else [[]]
    except csv.Error as error:
        line = reader.line_num
        raise ValueError(f"{root.where(name)} line {line}: {error}; look for a quote that is not closed") from None
    defects += blank_defects(header, name)
    names = [column.strip().lower() for column in header]
    lacking = [column for column in needed if column.lower() not in names]
    if lacking:
        raise ValueError(f"{root.where(name)} lacks the columns {lacking}; it has {header} (cut at commas)")
    for row in rows:  # what a comma or a quote in a title does: its artist would be another column's text
        if any(map(str.strip, row[len(names) :])) or any("\n" in cell for cell in row):
            raise ValueError(
                f"{root.where(name)}: the row {','.join(row)[:60]!r} does not fit the header; mend its quotes"
            )
    filled = [[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))]
    return [dict.fromkeys(names, "") | dict(zip(names, row, strict=False)) for row in filled]


def parse_number(cell: str | None) -> float:
    """The number in a cell, NaN for a cell that says there is none; ValueError for text."""
    if cell is None or cell.strip().lower() in MISSING:
        return math.nan
    if "_" in cell:  # which float() skips
        raise ValueError(f"{cell!r} is no number")
    return float(cell)


def blank_defects(names: list[str], detail: str) -> list[dict]:
    """A defect when column names have blanks around them."""
    blank = sum(name != name.strip() for name in names)
    return [make_defect("stray_blanks_in_header", blank, detail=detail)] if blank else []
