"""The parts of a report and of a model card, as data.

A task returns its sections once. `reporting.page` renders them as report.html and `reporting.card` as the model card.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from markupsafe import Markup
from matplotlib.figure import Figure

SYNTHETIC = "SYNTHETIC DATA"  # how every notice of synthetic data starts
NUMBER_CELL = re.compile(r"\[?[-+]?\d|undefined|$")


@dataclass(frozen=True)
class Table:
    """A table of text cells. A cell of `Markup` is Markdown already; any other cell is escaped."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table in Markdown, with columns of numbers aligned right."""
        numbers = [all(NUMBER_CELL.match(row[column]) for row in self.rows) for column in range(len(self.heading))]
        rules = ["---:" if right and column else "---" for column, right in enumerate(numbers)]
        return "\n".join(
            [_line(self.heading), f"|{'|'.join(rules)}|", *map(_line, self.rows)],
        )


@dataclass(frozen=True)
class Picture:
    """A figure, drawn when a page needs it.

    `draw` returns None if there is nothing to draw. The page then gives the reason `otherwise`.
    """

    name: str
    caption: str  # Markdown
    draw: Callable[[], Figure | None]
    otherwise: str = ""

    @cached_property
    def figure(self) -> Figure | None:
        return self.draw()

    @property
    def file(self) -> str:
        return f"figure_{self.name}.png"


@dataclass(frozen=True)
class Notice:
    """A paragraph that must not be missed, in Markdown."""

    text: str
    kind: str = "warning"  # or "verdict"


@dataclass(frozen=True)
class Folded:
    """Preformatted text that a reader unfolds."""

    summary: str
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str


Part = str | Table | Picture | Notice | Folded | Heading  # a `str` is Markdown


@dataclass(frozen=True)
class Section:
    """A titled part of the report, of the card, or of both. A section without a title opens the document."""

    title: str
    parts: Sequence[Part] = field(default_factory=list)
    in_page: bool = True
    in_card: bool = True


def escape(text: str) -> str:
    """Return text for Markdown that shows as it is: no markup, no link, one line, one table cell."""
    # An underscore inside a word is no markup, so identifiers stay readable in the source.
    text = re.sub(r"([\\`*<>|~&]|\](?=[(\[:]))", r"\\\1", re.sub(r"\s+", " ", text))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def unescape(text: str) -> str:
    """Return escaped text as it was."""
    return re.sub(r"\\([\\`*<>|~&_\]])", r"\1", text)


def code(text: str) -> Markup:
    """Return a name or a command as inline code of Markdown, even if it contains backticks."""
    text = " ".join(text.split())
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    blank = " " if "`" in text else ""
    return Markup(f"{ticks}{blank}{text}{blank}{ticks}")


def markdown(part: Part) -> str:
    """Return one part as Markdown."""
    match part:
        case Table():
            return part.markdown() if part.rows else ""
        case Picture():
            return f"![{part.caption}]({part.file})" if part.figure is not None else ""
        case Notice():
            return part.text
        case Folded():
            return f"```\n{part.text}\n```"
        case Heading():
            return f"### {part.text}"
        case _:
            return part


def joined(parts: Sequence[Part]) -> str:
    """Return parts as one Markdown text."""
    return "\n\n".join(text for text in map(markdown, parts) if text)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell if isinstance(cell, Markup) else escape(cell) for cell in cells)} |"
