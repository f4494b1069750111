"""Renew the card, report and figures of a finished run.

python -m launch.pages outputs/eda_tcn
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.attention import card as attention_card
from tasks.attention import report as attention_report
from tasks.detection import card as detection_card
from tasks.detection import report as detection_report
from tasks.detection.plots import plot_detections
from tasks.eda import card as eda_card
from tasks.eda import report as eda_report
from tasks.eda.plots import plot_predictions as plot_signals
from tasks.emotion import card as emotion_card
from tasks.emotion import report as emotion_report
from tasks.emotion.timeline import plot_emotions

# Task -> what makes its table and card, and what makes its page.
PAGES: dict[str, tuple[ModuleType, ModuleType]] = {
    "eda": (eda_card, eda_report),
    "detection": (detection_card, detection_report),
    "emotion": (emotion_card, emotion_report),
    "attention": (attention_card, attention_report),
}


def results_table(facts: dict[str, Any]) -> str:
    """The scores, as Markdown."""
    return PAGES[facts["task"]][0].results_table(facts["test"])


def model_card(facts: dict[str, Any]) -> str:
    """The README.md of the saved model."""
    return PAGES[facts["task"]][0].model_card(facts)


def report_files(facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table) -> dict[str, str | bytes]:
    """`report.html` and its figures, by file name."""
    return PAGES[facts["task"]][1].report_files(facts, config, predictions)


def renew_pages(folder: Path) -> list[Path]:
    """Make the card of a finished run anew and, where its predictions lie beside it, report and figures; their paths.

    (A folder from the Hub has no predictions, and keeps the figures that it came with.)
    """
    if not (folder / "metrics.json").is_file():
        raise ValueError(f"{folder}: no metrics.json; give the folder of a run that run_train.py wrote to its end")
    facts = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    if "training" not in facts:
        raise ValueError(f"{folder}: holds scores by run_eval.py and no model, so it has no card; give a run's folder")
    pages: dict[str, str | bytes] = {"README.md": model_card(facts)}
    if (folder / "predictions.parquet").is_file():
        config = json.loads((folder / "run_config.json").read_text(encoding="utf-8"))
        pages |= report_files(facts, config, pq.read_table(folder / "predictions.parquet"))
    for file, content in pages.items():
        draft = folder / f".{file}.part"
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(draft, folder / file)
    return [folder / file for file in pages]


def plot_predictions(task: str, predictions: Sequence[Any], path: Path) -> None:
    """What a model predicted for recordings of one's own, a panel a recording."""
    {"detection": plot_detections, "emotion": plot_emotions}.get(task, plot_signals)(predictions, path)


def main(argv: list[str]) -> None:
    """Make the pages of a finished run anew."""

    parser = argparse.ArgumentParser(
        prog="python -m launch.pages", description="Make card, report and figures of a finished run anew."
    )
    parser.add_argument("folder", type=Path, help="The folder of the run, with its metrics.json.")
    try:
        print(*renew_pages(parser.parse_args(argv).folder), sep="\n")
    except (ValueError, OSError) as error:
        raise SystemExit(f"launch.pages: {' '.join(str(error).split())}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
