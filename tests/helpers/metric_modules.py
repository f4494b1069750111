"""The metrics of this repository, loaded by `evaluate` as a user does, and the examples in their cards."""

from pathlib import Path
from typing import Any

import evaluate
import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "evaluation" / "metrics"
OF_CLASSES = ("weighted_f1", "macro_f1")
OF_DETECTION = ("average_precision", "roc_auc")


def module_of(score: str) -> str:
    """Return the module that a validation score is named after: `macro_f1` for `emotion_macro_f1`."""
    (name,) = (path.stem for path in FOLDER.glob("*/*.py") if f"_{score}".endswith(f"_{path.stem}"))
    return name


def load(name: str, cache_dir: Path | str, **options: Any) -> evaluate.EvaluationModule:
    return evaluate.load(str(FOLDER / name), cache_dir=str(cache_dir), **options)


def result_of_card(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the example in the card of a metric and return its result."""
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    example = card.split("```python\n")[1].split("```")[0].replace("metric.compute", "result = metric.compute")
    monkeypatch.chdir(REPOSITORY)
    scope: dict[str, Any] = {}
    exec(example, scope)
    return scope["result"]
