"""Pearson's correlation of two signals within each trial."""

import evaluate
import numpy as np

from evaluation.array_metric import ArrayMetric
from evaluation.masked import SIGNALS, correlation, padded, summary


def per_trial(predictions: np.ndarray, references: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return correlations (N,) of signals (N, T) over the frames that count; NaN if one of the two is constant."""
    return correlation(predictions, references, mask)


class Pearson(ArrayMetric):
    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), one list per trial."""
        return evaluate.MetricInfo(
            description="Pearson's correlation within each trial, averaged over trials.",
            citation="",
            inputs_description=__doc__,
            features=SIGNALS,
        )

    def _compute(self, predictions: list, references: list, mask: list) -> dict[str, float | int | None]:
        return summary("pearson", per_trial(*padded(predictions, references, mask)))
