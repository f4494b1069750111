"""report.html: all sections of a report in one file that loads nothing else, and its figures as PNG files."""

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from reporting.plots import png
from reporting.sections import Folded, Heading, Notice, Part, Picture, Section, markdown
from reporting.texts import SHARED, TEMPLATES

PAGES = Environment(
    loader=FileSystemLoader(TEMPLATES),
    undefined=StrictUndefined,
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
INTERVAL = re.compile(r"(\d) (\[[-.\d]+,) ([-.\d]+\])")  # a score with its interval stays on one line
# A wide table scrolls in a box of its own instead of widening the page.
MARKDOWN.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
MARKDOWN.add_render_rule("table_close", lambda *_: "</table></div>\n")


def report_files(facts: dict[str, Any], config: dict[str, Any], sections: Sequence[Section]) -> dict[str, str | bytes]:
    """Return report.html and its figures by file name.

    Args:
        facts: the content of metrics.json.
        config: the content of run_config.json, shown at the end of the page.
    """
    return page_files("report.html", facts["name"], [*sections, settings_section(facts, config)])


def page_files(file: str, title: str, sections: Sequence[Section], wide: bool = False) -> dict[str, str | bytes]:
    """Return a page and its figures by file name."""
    sections = [section for section in sections if section.in_page]
    pictures = [part for section in sections for part in section.parts if isinstance(part, Picture)]
    images = {picture.file: png(picture.figure) for picture in pictures if picture.figure is not None}
    bodies = [Markup("\n").join(_html(part, images) for part in section.parts) for section in sections]
    opening = Markup("\n").join(body for section, body in zip(sections, bodies, strict=True) if not section.title)
    titled = [
        {"title": section.title, "anchor": anchor(section.title), "body": body}
        for section, body in zip(sections, bodies, strict=True)
        if section.title
    ]
    page = PAGES.get_template("page.html.jinja").render(title=title, opening=opening, sections=titled, wide=wide)
    return {file: page, **images}


def settings_section(facts: dict[str, Any], config: dict[str, Any]) -> Section:
    """Return the last section of a page: every key of the run, and the versions of the packages."""
    keys = Folded("All keys of the run", json.dumps(config, indent=2))
    return Section("Settings", [keys, SHARED("versions", facts=facts)], in_card=False)


def anchor(title: str) -> str:
    """Return the id of a section's element."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _html(part: Part, images: dict[str, bytes]) -> Markup:
    match part:
        case Folded():
            return Markup("<details><summary>{}</summary><pre>{}</pre></details>").format(part.summary, part.text)
        case Notice():
            return Markup('<div class="{}">\n{}</div>').format(part.kind, _rendered(part.text))
        case Heading():
            return Markup("<h3>{}</h3>").format(part.text)
        case Picture() if part.figure is None:
            return _rendered(SHARED("nothing_to_draw", reason=part.otherwise))
        case Picture():
            caption = Markup(MARKDOWN.renderInline(part.caption))
            source = f"data:image/png;base64,{base64.b64encode(images[part.file]).decode()}"
            figure = '<figure><img alt="{}" src="{}"><figcaption>{}</figcaption></figure>'
            return Markup(figure).format(caption.striptags(), source, caption)
        case _:
            return _rendered(markdown(part))


def _rendered(text: str) -> Markup:
    return Markup(INTERVAL.sub(r"\1&nbsp;\2&nbsp;\3", MARKDOWN.render(text)))
