"""Metrics of clips with one label or several: the mean over the labels that have a score."""

from collections.abc import Callable

import datasets
import numpy as np
from numpy.typing import ArrayLike

from evaluation.masked import summary

# One score and one target per clip, or per clip and label.
LABELS = [
    datasets.Features({"predictions": kind, "references": kind})
    for kind in (datasets.Value("float64"), datasets.Sequence(datasets.Value("float64")))
]


def over_labels(
    name: str, measure: Callable[[np.ndarray, np.ndarray], float], predictions: ArrayLike, references: ArrayLike
) -> dict[str, float | int | None]:
    """Return the mean over labels of a measure of scores and targets (N,), and how many labels have none."""
    try:
        scores, targets = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    except ValueError as error:
        raise ValueError("clips have different numbers of scores or targets: give one per label") from error
    if scores.shape != targets.shape or not len(scores):
        raise ValueError(f"{scores.shape = } and {targets.shape = }: give one of each per clip, or per clip and label")
    scores, targets = scores.reshape(len(scores), -1), targets.reshape(len(targets), -1)
    values = []
    for label, columns in enumerate(zip(scores.T, targets.T, strict=True)):
        try:
            values.append(measure(*columns))
        except ValueError as error:
            raise ValueError(f"label {label}: {error}") from error
    return summary(name, np.array(values), "labels")
