"""The last lines that run_train.py and run_eval.py print: main score, verdict, files, and a command to try next."""

import shlex
from pathlib import Path
from typing import Any

from training.task import Run


def last_lines(run: Run, facts: dict[str, Any], folder: Path) -> str:
    """Return these lines.

    Args:
        facts: the content of metrics.json.
        folder: the folder that contains it.
    """
    lines = ["", run.task.conclusion(facts["test"]), f"report: {folder / 'report.html'}"]
    if "training" not in facts:  # written by run_eval.py, which has trained nothing
        return "\n".join([*lines, f"scores and predictions: {folder}"])
    # A task without suffixes cannot predict for recordings, so suggest scoring other data.
    if run.task.suffixes:
        command = ["python", "run_predict.py", str(folder), *run.task.example_input(facts["model"])]
    else:
        command = ["python", "run_eval.py", str(folder), "--side", "all"]
    lines += [f"card: {folder / 'README.md'}", f"model and scores: {folder}", f"next: {shlex.join(command)}"]
    return "\n".join(lines)
