"""Text that goes to people: without secrets, as cells that no spreadsheet runs, and always encodable."""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

MASK = "***"
TOKEN = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{12,}|\bHFAK\w{4,}|\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bgithub_pat_\w{20,}|\bsk-[A-Za-z0-9_-]{20,}"
)
# User and password before the host of a URL, of which `Path` leaves one slash; the password may hold `/`, unless it
# looks like a port.
USER = re.compile(r"(\w:/{1,2})(?:[^\s/?#]+|[^\s/?#:@]+:(?!\d*[/?#])\S+)@")
PRIVATE_KEY = re.compile("-----BEGIN [A-Z ]*PRIVATE KEY")
# The value of a parameter of a URL, or of an entry in quotes, whose name says that it is secret.
VALUE = re.compile(
    r"((?:signature|credentials?|tokens?|secret|passw(?:or)?d|pwd|api[-_]?key|access[-_]?key(?:[-_]?id)?"
    r"|(?<![^\W\d_])sig)(?:=[\"']?|[\"']\s*:\s*[\"']))[^\s&;#\"'<>]+?(?=:?(?:[\s&;#\"'<>]|$))",
    re.IGNORECASE,
)
# The value of an entry `name: value` or `name = value` whose name has no quotes, and of an option `--name value`.
NAMES = r"(?:token|secret|passw(?:or)?d|pwd|credentials?|api[-_]?key|access[-_]?key(?:[-_]?id)?)"
# Plain words are no values: one has a digit, a capital, or 12 letters.
GIVEN = r"(?!-|\[|None\b|True\b|False\b)(?=[^\s,;\"']{3})(?=[^\s,;\"']*[\dA-Z]|[^\s,;\"']{12})[^\s,;\"']+"
ENTRY = re.compile(rf"((?<![\w-])(?i:(?!--)[\w-]*{NAMES}\s*[:=]|--[\w-]*{NAMES})[^\S\n]+[\"']?){GIVEN}")
# The credentials of an HTTP header.
HEADER = re.compile(
    r"((?i:\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token)\s+)?+|\bbearer\s+(?=\S{16})))" + GIVEN
)
# Libraries say this of a file that is damaged or of another kind: that it is not there, or how to run its code.
MISLEADING = ("File does not exist or is not a regular file", "Weights only load failed", "pickle data", "pickled (")
DEEPEST = 5  # times that a URL may be percent-encoded
RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r", "\n")


def reason_of(error: Exception) -> str:
    """The first line of what a library says of a file, or a plain word where that would mislead."""
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return "its bytes are damaged, or those of another kind of file" if any(w in text for w in MISLEADING) else text


def mask_secrets(text: str) -> str:
    """The text with `***` for passwords and signatures in URLs, also percent-encoded ones, and for access keys."""
    return re.sub(r"\S+", lambda word: _mask_encoded(word[0]) if "%" in word[0] else word[0], _mask(text))


def holds_secret(text: str) -> bool:
    """Whether a text looks as if it held a secret."""
    return mask_secrets(text) != text or PRIVATE_KEY.search(text) is not None


def _mask(text: str) -> str:
    text = USER.sub(rf"\1{MASK}@", text)
    for pattern in (VALUE, ENTRY, HEADER):
        text = pattern.sub(rf"\1{MASK}", text)
    return TOKEN.sub(MASK, text)


def _mask_encoded(word: str) -> str:
    """The word as it came, or decoded as far as it takes to see a secret in it, without that."""
    plain = word
    for _ in range(DEEPEST):
        plain = unquote(plain)
        if (masked := _mask(plain)) != plain:
            return masked
    return word


def masked(value: Any) -> Any:
    """A record, which JSON could hold, with all of its texts masked."""
    if isinstance(value, dict):
        return {key: masked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inner) for inner in value]
    return mask_secrets(value) if isinstance(value, str) else value


def printable(name: Any) -> str:
    """A name of a file as text that UTF-8 can hold: bytes that are no UTF-8 become `\\udce9` and the like."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def plural(count: int, noun: str, nouns: str = "") -> str:
    """A count with its noun: "1 row", "1,200 rows"; `nouns` is a plural that is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def safe_cell(value: Any) -> Any:
    """A cell of a table for people: text that a spreadsheet would run as a formula gets a `'` before it."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(RUN_BY_SPREADSHEETS) and not _is_number(text) else text


def safe_row(cells: Iterable[Any]) -> list[Any]:
    """A row of a table for people, see `safe_cell`."""
    return [safe_cell(cell) for cell in cells]


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """A table for people, its header first, with cells as by `safe_cell`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(safe_row, rows))
    return text.getvalue()


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None
