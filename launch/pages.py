"""Renew the card, report and figures of a finished run.

python -m launch.pages outputs/eda_tcn
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from launch.start import begin
from system.process import one_line_errors


def parse(argv: list[str]) -> Path:
    """Return the folder that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.pages", description="Write card, report and figures of a finished run again."
    )
    parser.add_argument("folder", type=Path, help="The folder of the run, with its metrics.json.")
    folder = parser.parse_args(argv).folder
    check_folder(folder)
    return folder


def check_folder(folder: Path) -> None:
    """Raise if a folder contains no scores of a run."""
    if not (folder / "metrics.json").is_file():
        raise ValueError(f"{folder}: contains no metrics.json. Give the folder of a finished run of run_train.py.")


if __name__ == "__main__":
    begin(parse)

import pyarrow as pa
import pyarrow.parquet as pq

from launch.run import load_task
from reporting.card import model_card
from reporting.page import report_files
from training.run_folder import write_pages
from training.task import Task


def run_pages(
    task: Task, facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table
) -> dict[str, str | bytes]:
    """Return card, report and figures of a run by file name."""
    sections = task.sections(facts, predictions)
    card = model_card(facts, task.card_metadata(facts), sections)
    return {"README.md": card} | report_files(facts, config, sections)


def score_pages(
    task: Task, facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table
) -> dict[str, str | bytes]:
    """Return report and figures of a saved model that was scored on other data."""
    return report_files(facts, config, task.sections(facts, predictions))


def card_of(task: Task, facts: dict[str, Any]) -> str:
    """Return the card of a run."""
    return model_card(facts, task.card_metadata(facts), task.sections(facts, None))


def renew_pages(folder: Path) -> list[Path]:
    """Write card, report and figures of a finished run again, and return their paths.

    A folder from the Hub has no predictions. Its card is renewed, and it keeps its figures.
    """
    check_folder(folder)
    facts = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    if "training" not in facts:
        raise ValueError(
            f"{folder}: contains scores by run_eval.py but no model, so it has no card. Give a run's folder."
        )
    task = load_task(facts["task"])
    write_pages(folder, pages := _pages_of(task, facts, folder))
    return [folder / file for file in pages]


def _pages_of(task: Task, facts: dict[str, Any], folder: Path) -> dict[str, str | bytes]:
    if not (folder / "predictions.parquet").is_file():
        return {"README.md": card_of(task, facts)}
    config = json.loads((folder / "run_config.json").read_text(encoding="utf-8"))
    return run_pages(task, facts, config, pq.read_table(folder / "predictions.parquet"))


def main(argv: list[str]) -> None:
    """Print the files that were renewed."""
    print(*renew_pages(parse(argv)), sep="\n")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
