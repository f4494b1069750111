"""Reports and cards: one golden page per task, escaping, one self-contained file, alignment of numbers."""

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup
from matplotlib.figure import Figure

from launch.run import load_task
from reporting.card import CardMetadata
from reporting.page import MARKDOWN, page_files
from reporting.sections import Folded, Heading, Notice, Picture, Section, Table, code, escape, joined, unescape
from reporting.texts import Texts
from tasks import TASKS
from tests.helpers.facts import SCRIPT
from tests.helpers.pages import model_card, report_files, without_images

GOLDEN = Path(__file__).parent / "golden"
# FELTSOUND_RECORD=1 writes the golden pages again. Read the difference before you commit it.
RECORD = bool(os.environ.get("FELTSOUND_RECORD"))
HOSTILE = "_a_ *b* `c` <d> | e ~f~ [g](h) &lt; \\ $x$"


def made_up_run(task: str) -> tuple[dict[str, Any], Any]:
    """Return the record and the predictions of a made-up run, as they come back from their files."""
    module = importlib.import_module(f"tests.helpers.facts.{task}")
    predictions = {
        "eda": lambda: module.make_predictions([0.1, 0.9, 0.5]),
        "attention": lambda: module.make_run()[1],
    }.get(task, lambda: None)()
    return json.loads(json.dumps(module.make_facts())), predictions


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["html", "md"])
def test_pages_equal_the_golden_ones(task: str, kind: str) -> None:
    """FELTSOUND_RECORD=1 records them again."""
    facts, predictions = made_up_run(task)
    text = model_card(facts) if kind == "md" else report_files(facts, {"seed": 0}, predictions)["report.html"]
    text = re.sub(r"<style>.*?</style>", "", without_images(text), flags=re.DOTALL)
    golden = GOLDEN / f"{task}.{kind}"
    if RECORD:
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("task", TASKS)
def test_sections_have_distinct_anchors_and_the_contents_list_all(task: str) -> None:
    facts, predictions = made_up_run(task)
    page = report_files(facts, {}, predictions)["report.html"]
    anchors = re.findall(r'<section id="([^"]+)">', page)
    assert len(set(anchors)) == len(anchors) > 4
    assert re.findall(r'<li><a href="#([^"]+)">', page) == anchors


@pytest.mark.parametrize("task", TASKS)
def test_records_without_threads_have_pages(task: str) -> None:
    """As written before the number of threads was recorded."""
    facts, predictions = made_up_run(task)
    del facts["threads"]
    for text in (report_files(facts, {}, predictions)["report.html"], model_card(facts)):
        assert text.count("torch 2.12") == 1
        assert not re.search(r"\b1 thread\b", text)


@pytest.mark.parametrize("task", TASKS)
def test_a_page_loads_nothing_and_has_no_script(task: str) -> None:
    facts, predictions = made_up_run(task)
    page = report_files(facts, {"key": SCRIPT}, predictions)["report.html"]
    assert re.findall(r"<(script|link|iframe|object|embed)\b", page) == []
    assert re.findall(r"(?:src|url)\s*[=(]\s*[\"']?(?!data:)\w", page) == []
    assert SCRIPT not in page


@pytest.mark.parametrize("task", TASKS)
def test_every_text_of_a_task_is_used(task: str) -> None:
    """Each macro of a task's template is called by its code or by another macro."""
    folder = Path("tasks") / task
    template = (folder / "texts.md.jinja").read_text(encoding="utf-8")
    source = template + "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    macros = re.findall(r"{% macro (\w+)", template)
    captions = set(re.findall(r'picture\(\s*"(\w+)"', source))
    called = {name for name in macros if f'"{name}"' in source or f"{{{{ {name}(" in source}
    assert set(macros) - called - {f"{name}_caption" for name in captions} == set()


def test_columns_of_numbers_are_aligned_right_and_cells_are_escaped() -> None:
    table = Table(["who", "score", "note"], [["a|b", "0.1 [0.0, 0.2]", "*x*"], ["c", "undefined", ""]])
    assert table.markdown().splitlines() == [
        "| who | score | note |",
        "|---|---:|---|",
        r"| a\|b | 0.1 [0.0, 0.2] | \*x\* |",
        "| c | undefined |  |",
    ]
    assert Table(["a"], [[Markup("**b**")]]).markdown().splitlines()[-1] == "| **b** |"


@pytest.mark.parametrize("text", [HOSTILE, "![x](y)", "a_b _c_", "# no heading", "<!-- -->", "[r]: url", "a\nb", "`"])
def test_escaped_text_shows_as_it_is(text: str) -> None:
    html = MARKDOWN.render(f"x {escape(text)}")
    shown = Markup(html).striptags() if "<" not in text else Markup(html.removeprefix("<p>").strip()).unescape()
    assert shown.removesuffix("</p>") == "x " + " ".join(text.split())
    assert set(re.findall(r"<(\w+)", html)) == {"p"}
    assert unescape(escape(text)) == re.sub(r"\s", " ", text)


def test_inline_code_may_contain_backticks() -> None:
    assert "<code>a `b` c</code>" in MARKDOWN.render(code("a `b` c"))


def test_values_in_texts_are_escaped_and_macros_are_not(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text(
        "{% macro inner(x) %}**{{ x }}**{%- endmacro %}{% macro outer(x) %}{{ inner(x) }},\n  {{ x }}{% endmacro %}"
    )
    texts = Texts(tmp_path / "t.jinja")
    assert texts("outer", x="*a*") == r"**\*a\***, \*a\*"
    assert texts.line("outer", x="<b>") == "**<b>**, <b>"


def test_each_kind_of_part_has_its_element_and_its_markdown() -> None:
    figure = Figure()
    parts = [
        "a **b**",
        Table(["n", "x"], [["a", "1"]]),
        Notice("careful"),
        Heading("H"),
        Folded("more", "<x>"),
        Picture("p", "caption *i*", lambda: figure),
        Picture("none", "unseen", lambda: None, "no_trial"),
    ]
    files = page_files("page.html", "T<", [Section("One & two", parts), Section("Card", ["hidden"], in_page=False)])
    page = files["page.html"]
    assert isinstance(page, str)
    assert set(files) == {"page.html", "figure_p.png"}
    assert page.count("<strong>b</strong>") == 1
    assert page.count('<div class="table"><table>') == page.count("</table></div>") == 1
    assert page.count('<td style="text-align:right">1</td>') == 1
    assert page.count('<div class="warning">') == 1
    assert "<h3>H</h3>" in page
    assert "<pre>&lt;x&gt;</pre>" in page
    assert page.count("<figure>") == 1
    assert 'alt="caption i"' in page
    assert "no_trial" in page
    assert "hidden" not in page
    assert '<section id="one-two">' in page
    assert "<title>T&lt;</title>" in page
    text = joined(parts)
    assert "![caption *i*](figure_p.png)" in text
    assert "unseen" not in text


def test_the_hub_gets_scores_with_values() -> None:
    for task in TASKS:
        facts, _ = made_up_run(task)
        metadata = load_task(task).card_metadata(facts)
        assert isinstance(metadata, CardMetadata)
        assert metadata.results
        assert all(result.metric_value is not None for result in metadata.results)
