"""The scores of a validation: those of the modules in `metrics/`, loaded by `evaluate`."""

import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "metrics"


@cache
def module(name: str) -> Any:
    """Load a module once in a process. It writes no file of scores, so processes do not meet."""
    import evaluate  # here, for half a second that only a validation takes

    return evaluate.load(str(FOLDER / name), keep_in_memory=True)


def validation_scores(names: Iterable[str], **inputs: Any) -> dict[str, float]:
    """Return the scores of some modules of the same inputs, without those that are not defined.

    A model that diverged is not a number by each score: it is no best checkpoint, and earlier ones still can be.
    """
    if np.isnan(inputs["predictions"]).any():
        return dict.fromkeys(names, math.nan)
    scores = {name: module(name).compute(**inputs)[name] for name in names}
    return {name: value for name, value in scores.items() if value is not None}
