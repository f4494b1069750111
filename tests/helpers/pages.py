"""Pages of made-up runs, and what a page contains."""

import base64
import re
from typing import Any

import pyarrow as pa

from launch.pages import card_of, run_pages, score_pages
from launch.run import load_task
from reporting.sections import Notice, Part


def report_files(
    facts: dict[str, Any], config: dict[str, Any] | None = None, predictions: pa.Table | None = None
) -> dict[str, Any]:
    """Return report.html and its figures, of a run or, without "training" in the facts, of a scored model."""
    predictions = pa.table({}) if predictions is None else predictions
    make = run_pages if "training" in facts else score_pages
    files = make(load_task(facts["task"]), facts, config or {}, predictions)
    return {name: content for name, content in files.items() if name != "README.md"}


def model_card(facts: dict[str, Any]) -> str:
    return card_of(load_task(facts["task"]), facts)


def parts(facts: dict[str, Any]) -> list[Part]:
    """Return the parts of all sections."""
    return [part for section in load_task(facts["task"]).sections(facts, None) for part in section.parts]


def notices(facts: dict[str, Any], kind: str = "warning") -> list[str]:
    """Return the warnings, or the verdicts, of a report."""
    return [part.text for part in parts(facts) if isinstance(part, Notice) and part.kind == kind]


def without_images(page: str) -> str:
    return re.sub(r"data:[^\"]+", "", page)


def embedded_images(page: str) -> set[bytes]:
    return {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)}


def assert_no_missing_value(page: str) -> None:
    """Check that no value without a number reached the text."""
    assert re.findall(r"\b(nan|None|inf)\b", without_images(page)) == []
