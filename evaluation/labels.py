"""Metrics of clips with one or several labels: the mean over the labels with a defined score."""

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
    """Return the mean of a measure over labels, and how many labels have a score and how many have none."""
    try:
        scores, targets = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    except ValueError as error:
        raise ValueError(
            "predictions, references: the number of labels differs between clips. Give one value per label for each "
            "clip."
        ) from error
    if scores.shape != targets.shape or not len(scores):
        raise ValueError(
            f"scores.shape={scores.shape}, targets.shape={targets.shape}: must be equal and not empty. Give one of "
            "each per clip, or per clip and label."
        )
    scores, targets = scores.reshape(len(scores), -1), targets.reshape(len(targets), -1)
    values = []
    for label, columns in enumerate(zip(scores.T, targets.T, strict=True)):
        try:
            values.append(measure(*columns))
        except ValueError as error:
            raise ValueError(f"label {label}: {error}") from error
    return summary(name, np.array(values), "labels")
