"""Text for people: without secrets, safe in spreadsheets, and always encodable."""

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
# User and password before the host of a URL. `Path` collapses the slashes to one. A password may contain `/`, unless
# it looks like a port.
USER = re.compile(r"(\w:/{1,2})(?:[^\s/?#]+|[^\s/?#:@]+:(?!\d*[/?#])\S+)@")
PRIVATE_KEY = re.compile("-----BEGIN [A-Z ]*PRIVATE KEY")
# The value of a URL parameter, or of a quoted entry, with a name that suggests a secret. max_text_tokens is a count.
VALUE = re.compile(
    r"((?:signature|credentials?|(?<!max_text_)tokens?|secret|passw(?:or)?d|pwd|api[-_]?key|access[-_]?key(?:[-_]?id)?"
    r"|(?<![^\W\d_])sig)(?:=[\"']?|[\"']\s*:\s*[\"']))[^\s&;#\"'<>]+?(?=:?(?:[\s&;#\"'<>]|$))",
    re.IGNORECASE,
)
# The value of an unquoted entry `name: value` or `name = value`, and of an option `--name value`.
NAMES = r"(?:token|secret|passw(?:or)?d|pwd|credentials?|api[-_]?key|access[-_]?key(?:[-_]?id)?)"
# Plain words are no values ("token: missing"). A value has a digit, a capital, or 12 characters.
GIVEN = r"(?!-|\[|None\b|True\b|False\b)(?=[^\s,;\"']{3})(?=[^\s,;\"']*[\dA-Z]|[^\s,;\"']{12})[^\s,;\"']+"
ENTRY = re.compile(rf"((?<![\w-])(?i:(?!--)[\w-]*{NAMES}\s*[:=]|--[\w-]*{NAMES})[^\S\n]+[\"']?){GIVEN}")
# The credentials of an HTTP header.
HEADER = re.compile(
    r"((?i:\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token)\s+)?+|\bbearer\s+(?=\S{16})))" + GIVEN
)
# Messages of libraries about a damaged or foreign file that mislead: the file is missing, or how to run its code.
MISLEADING = ("File does not exist or is not a regular file", "Weights only load failed", "pickle data", "pickled (")
MAX_ENCODINGS = 5  # times that a URL may be percent-encoded
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")  # cells that spreadsheets run as a formula


def reason_of(error: Exception) -> str:
    """Return the first line of a library's error about a file, or a plain message if that would mislead."""
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    misleading = any(phrase in text for phrase in MISLEADING)
    return "its bytes are damaged or in another file format" if misleading else text


def mask_secrets(text: str) -> str:
    """Replace passwords and signatures in URLs (also percent-encoded ones) and access keys by `***`."""
    return re.sub(r"\S+", lambda word: _mask_encoded(word[0]) if "%" in word[0] else word[0], _mask(text))


def contains_secret(text: str) -> bool:
    """Return whether a text seems to contain a secret."""
    return mask_secrets(text) != text or PRIVATE_KEY.search(text) is not None


def _mask(text: str) -> str:
    text = USER.sub(rf"\1{MASK}@", text)
    for pattern in (VALUE, ENTRY, HEADER):
        text = pattern.sub(rf"\1{MASK}", text)
    return TOKEN.sub(MASK, text)


def _mask_encoded(word: str) -> str:
    """Return the word, or if decoding reveals a secret, the decoded word with the secret masked."""
    plain = word
    for _ in range(MAX_ENCODINGS):
        plain = unquote(plain)
        if (masked := _mask(plain)) != plain:
            return masked
    return word


def masked(value: Any) -> Any:
    """Mask all strings in a JSON-like record."""
    if isinstance(value, dict):
        return {key: masked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inner) for inner in value]
    return mask_secrets(value) if isinstance(value, str) else value


def printable(name: Any) -> str:
    """Make a file name encodable as UTF-8: invalid bytes become `\\udce9` and the like."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return a count with its noun: "1 row", "1,200 rows". `nouns` is an irregular plural."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def safe_cell(value: Any) -> Any:
    """Put a `'` before text that a spreadsheet would run as a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) and not _is_number(text) else text


def safe_row(cells: Iterable[Any]) -> list[Any]:
    """Apply `safe_cell` to a row."""
    return [safe_cell(cell) for cell in cells]


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Write rows, header first, as CSV with cells made safe by `safe_cell`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(safe_row, rows))
    return text.getvalue()


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None
