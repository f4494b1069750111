"""Texts of reports and cards: Jinja macros in Markdown, filled in with values from a run's record.

A value is text. Each value is escaped before it becomes part of the Markdown around it.
"""

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reporting.cells import cell, counted, difference_cell, flat, in_words, number, score_cell
from reporting.sections import SYNTHETIC, code, escape, unescape
from system.text import plural

TEMPLATES = Path(__file__).parent / "templates"


def python(value: Any) -> Markup:
    """Return text, or a dict of text and numbers, as a literal of Python, for a code block."""
    return verbatim(json.dumps(value, ensure_ascii=False))


def verbatim(value: Any) -> Markup:
    """Return a value unescaped, for a code block. It cannot end the block."""
    return Markup(" ".join(str(value).split()).replace("```", "` ` `"))


def _as_markdown(value: Any) -> Any:
    # Results of macros and of `code` are Markup, that is Markdown already.
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(folder), FileSystemLoader(TEMPLATES)]),
        undefined=StrictUndefined,
        # Jinja escapes for HTML. `finalize` runs first and returns Markup, which Jinja leaves alone.
        autoescape=True,
        finalize=_as_markdown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (cell, code, counted, difference_cell, flat, in_words, number, plural, python, score_cell, verbatim)
    environment.globals["SYNTHETIC"] = SYNTHETIC
    environment.filters.update({function.__name__: function for function in filters})
    return environment


class Texts:
    """The macros of one template file: `texts("verdict", test=test)` fills in the macro `verdict`."""

    def __init__(self, file: Path) -> None:
        self._macros = _environment(file.parent).get_template(file.name).module

    def __call__(self, macro: str, **values: Any) -> str:
        """Return the filled-in macro as Markdown, one line per paragraph; code blocks keep their lines."""
        text = str(getattr(self._macros, macro)(**values)).strip()
        if "```" in text:
            return text
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))

    def line(self, macro: str, **values: Any) -> str:
        """Return the filled-in macro as plain text, for the terminal."""
        return unescape(self(macro, **values))


SHARED = Texts(TEMPLATES / "shared.md.jinja")
