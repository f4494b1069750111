"""The last lines of a program that scores a model: the main score, the verdict, the files, and the next command."""

import shlex
from pathlib import Path
from typing import Any

from training.task import Run


def last_lines(run: Run, facts: dict[str, Any], folder: Path) -> str:
    """Return these lines; `facts` are those of metrics.json in the folder."""
    lines = ["", run.task.conclusion(facts["test"]), f"report: {folder / 'report.html'}"]
    if "training" not in facts:
        return "\n".join([*lines, f"scores and predictions: {folder}"])
    if run.task.suffixes:
        command = ["python", "run_predict.py", str(folder), *run.task.example_input(facts["model"])]
    else:
        command = ["python", "run_eval.py", str(folder), "--side", "all"]
    lines += [f"card: {folder / 'README.md'}", f"model and scores: {folder}", f"next: {shlex.join(command)}"]
    return "\n".join(lines)
