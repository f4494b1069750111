"""Validation scores from the modules in `metrics/`, loaded by `evaluate`."""

import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "metrics"


@cache
def module(name: str) -> Any:
    """Load a metric module, once per process."""
    import evaluate  # imported here: the import costs half a second, and only a validation needs it

    # In memory, because processes that share a cache file would mix their rows.
    return evaluate.load(str(FOLDER / name), keep_in_memory=True)


def validation_scores(names: Iterable[str], **inputs: Any) -> dict[str, float]:
    """Return the scores of several modules on the same inputs, without undefined ones."""
    # A diverged model gets NaN for every score, instead of an error. Then it never becomes the best checkpoint, and
    # training can still use earlier ones.
    if np.isnan(inputs["predictions"]).any():
        return dict.fromkeys(names, math.nan)
    scores = {name: module(name).compute(**inputs)[name] for name in names}
    return {name: value for name, value in scores.items() if value is not None}
