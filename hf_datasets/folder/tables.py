"""Csv as programs write it: which character separates cells, which line a cell stands in, what is a number.

Commas, semicolons and tabs separate cells; a byte order mark, any line end and quotes are taken. What could be read
in two ways is refused with the line: another encoding, decimal commas, a quote that is not closed.
"""

import math
import re

import numpy as np

from .. import csv_tables
from ..csv_tables import Row, decode_text, parse_number

SEPARATORS = (";", "\t", ",")  # the first that a table's first line has
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
LARGEST = float(np.finfo(np.float32).max)  # signals are stored in 32 bits


def read_rows(data: bytes) -> list[Row]:
    """(line, cells without blanks around them) of every row; an empty line has no cells. ValueError names the line."""
    text = decode_text(data)
    first = text.lstrip().partition("\n")[0].partition("\r")[0]
    separator = next((character for character in SEPARATORS if character in first), ",")
    rows = csv_tables.read_rows(text, separator, skip_blanks=True)
    return [(line, [cell.strip() for cell in cells]) for line, cells in rows]


def read_number(cell: str) -> float:
    """The number in a cell, NaN for a cell that says there is none; ValueError for everything else."""
    if DECIMAL_COMMA.fullmatch(cell):
        raise ValueError(f"{cell!r} has a decimal comma; write {cell.replace(',', '.')}")
    try:
        value = parse_number(cell)
    except ValueError:
        value = math.inf
    if abs(value) > LARGEST:
        raise ValueError(f"{cell[:40]!r} is not a number; leave the cell empty where there is none")
    return value
