"""Every task has pages that are complete in one file, with and without a training."""

import re
from typing import Any

import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from launch.pages import PAGES, report_files
from tasks import TASKS
from tests.helpers.facts import attention, detection, eda, emotion
from tests.helpers.pages import assert_no_missing_value, embedded_images, without_images

FIGURES = {
    "eda": {"scores_raw", "trials_raw", "null_raw", "over_time_raw", "learning"},
    "detection": {
        "precision_recall", "scores", "timelines", "confusers", "learning", "composition", "coverage", "mining",
    },
    "emotion": {"confusion_emotion", "confusion_sentiment", "classes", "ablations", "calibration", "learning"},
    "attention": {"predicted", "compared", "removals", "residuals", "learning"},
}  # fmt: skip
OF_TRAINING = {"learning", "composition", "coverage", "mining"}


def run_of(task: str) -> tuple[dict[str, Any], pa.Table]:
    """Return the record and the predictions of a made-up run."""
    if task == "attention":
        test, predictions = attention.make_run()
        return attention.make_facts(test), predictions
    if task == "eda":
        return eda.make_facts(), eda.make_predictions([0.1, 0.9, 0.5])
    return {"detection": detection, "emotion": emotion}[task].make_facts(), pa.table({})


def file_names(figures: set[str]) -> set[str]:
    return {f"figure_{name}.png" for name in figures}


def test_every_task_has_pages() -> None:
    assert set(TASKS) <= set(PAGES)


@pytest.mark.parametrize("task", TASKS)
def test_the_page_is_one_file_that_holds_every_figure(task: str, figures: list[Figure]) -> None:
    facts, predictions = run_of(task)
    files = report_files(facts, {"seed": 0}, predictions)
    page = files.pop("report.html")
    assert set(files) == file_names(FIGURES[task])
    assert embedded_images(page) == set(files.values())
    assert page.count("<img") == len(figures) == len(FIGURES[task])
    assert all(image.startswith(b"\x89PNG") for image in files.values())
    assert all(panel.has_data() for figure in figures for panel in figure.axes)
    text = without_images(page)
    assert re.findall(r'(?:src|href)="(?!")', text) == []
    assert "http" not in text
    assert_no_missing_value(page)
    assert text.index("SYNTHETIC DATA") < text.index("Verdict") < text.index("Scores</h2>")


@pytest.mark.parametrize("task", TASKS)
def test_scores_without_a_training_have_a_page_too(task: str) -> None:
    """`run_eval.py` records nothing about a training."""
    facts, predictions = run_of(task)
    for key in ("training", "base", "parameters", "receptive_field_seconds"):
        del facts[key]
    files = report_files(facts | {"model": f"outputs/{task}", "side": "validation"}, {}, predictions)
    page = files.pop("report.html")
    assert set(files) == file_names(FIGURES[task] - OF_TRAINING)
    assert embedded_images(page) == set(files.values())
    assert "The validation side of" in page
    assert "<h2>Training</h2>" not in page
