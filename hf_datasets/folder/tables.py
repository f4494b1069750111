"""Csv as programs write it: which character separates cells, which line a cell stands in, what is a number.

Commas, semicolons and tabs separate cells; a byte order mark, any line end and quotes are taken. What could be read
in two ways is refused with the line: another encoding, decimal commas, a quote that is not closed.
"""

import csv
import io
import math
import re

import numpy as np

from ..csv_tables import parse_number

SEPARATORS = (";", "\t", ",")  # the first that a table's first line has
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
LARGEST = float(np.finfo(np.float32).max)  # signals are stored in 32 bits


def read_rows(data: bytes) -> list[tuple[int, list[str]]]:
    """(line, cells without blanks around them) of every row; an empty line has no cells. ValueError names the line."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8 text; save the file as 'CSV UTF-8'") from None
    if "\0" in text:
        raise ValueError("is not UTF-8 text (it holds zero bytes); save the file as 'CSV UTF-8'")
    first = text.lstrip().partition("\n")[0].partition("\r")[0]
    separator = next((character for character in SEPARATORS if character in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows, line = [], 1
    try:
        for cells in reader:
            rows.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {line}: {error}; look for a quote that is not closed") from None
    return rows


def read_number(cell: str) -> float:
    """The number in a cell, NaN for a cell that says there is none; ValueError for everything else."""
    if DECIMAL_COMMA.fullmatch(cell):
        raise ValueError(f"{cell!r} has a decimal comma; write {cell.replace(',', '.')}")
    try:
        value = math.inf if "_" in cell else parse_number(cell)
    except ValueError:
        value = math.inf
    if abs(value) > LARGEST:
        raise ValueError(f"{cell[:40]!r} is not a number; leave the cell empty where there is none")
    return value
