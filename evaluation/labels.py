"""Metrics of clips with one label or several: the mean over the labels that have a score."""

from collections.abc import Callable

import datasets
import numpy as np

from evaluation.masked import summary

# One score and one target per clip, or per clip and label.
LABELS = [
    datasets.Features({"predictions": kind, "references": kind})
    for kind in (datasets.Value("float64"), datasets.Sequence(datasets.Value("float64")))
]


def over_labels(
    name: str, measure: Callable[[np.ndarray, np.ndarray], float], predictions: list, references: list
) -> dict[str, float | int | None]:
    """Return the mean over labels of a measure of scores and targets (N,), and how many labels have none."""
    lengths = {len(np.atleast_1d(row)) for row in (*predictions, *references)}
    if len(lengths) > 1:
        raise ValueError(f"clips have {sorted(lengths)} scores or targets; give each as many as there are labels")
    scores, targets = (np.asarray(rows, np.float64).reshape(len(rows), -1) for rows in (predictions, references))
    values = []
    for label, columns in enumerate(zip(scores.T, targets.T, strict=True)):
        try:
            values.append(measure(*columns))
        except ValueError as error:
            raise ValueError(f"label {label}: {error}") from error
    return summary(name, np.array(values), "labels")
