"""Read csv text from any program: detect the separator, keep line numbers, and parse numbers.

Commas, semicolons and tabs separate cells. A byte order mark, any line ends and quotes are accepted. Ambiguous input
raises a ValueError with the line: another encoding, decimal commas, an open quote.
"""

import math
import re

import numpy as np

from .. import csv_tables
from ..csv_tables import Row, decode_text, parse_number

SEPARATORS = (";", "\t", ",")  # the first one in the first line is used; a comma last, as it may be a decimal comma
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
LARGEST = float(np.finfo(np.float32).max)  # signals are stored as float32


def read_rows(data: bytes) -> list[Row]:
    """Return line number and stripped cells of every row; an empty line has no cells."""
    text = decode_text(data)
    first = text.lstrip().partition("\n")[0].partition("\r")[0]
    separator = next((character for character in SEPARATORS if character in first), ",")
    rows = csv_tables.read_rows(text, separator, skip_blanks=True)
    return [(line, [cell.strip() for cell in cells]) for line, cells in rows]


def read_number(cell: str) -> float:
    """Return the number in a cell, NaN for an empty cell or one like "n/a"; raise ValueError for anything else."""
    if DECIMAL_COMMA.fullmatch(cell):
        raise ValueError(f"{cell!r}: decimal comma. Write {cell.replace(',', '.')}.")
    try:
        value = parse_number(cell)
    except ValueError:
        value = math.inf
    if abs(value) > LARGEST:
        raise ValueError(f"{cell[:40]!r}: not a number. Leave the cell empty if there is no value.")
    return value
