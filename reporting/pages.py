"""What a run shows people, by its task: the table in the terminal, the card of the model, the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from reporting import card, detection_card, detection_report, report
from reporting.detection_plots import plot_detections
from reporting.plots import plot_predictions as plot_signals


def results_table(facts: dict[str, Any]) -> str:
    """The scores, as Markdown."""
    return (detection_card if facts["task"] == "detection" else card).results_table(facts["test"])


def model_card(facts: dict[str, Any]) -> str:
    """The README.md of the saved model."""
    return (detection_card if facts["task"] == "detection" else card).model_card(facts)


def report_files(facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table) -> dict[str, str | bytes]:
    """`report.html` and its figures, by file name."""
    if facts["task"] == "detection":
        return detection_report.report_files(facts, config)  # whose timelines are in the facts
    return report.report_files(facts, config, predictions)


def plot_predictions(task: str, predictions: Sequence[Any], path: Path) -> None:
    """What a model predicted for sounds of one's own, a panel a sound."""
    (plot_detections if task == "detection" else plot_signals)(predictions, path)
