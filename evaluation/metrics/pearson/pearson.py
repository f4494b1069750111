"""Pearson's correlation of two signals within each trial: do they rise and fall together?"""

import evaluate
import numpy as np

from evaluation.array_metric import ArrayMetric
from evaluation.masked import SIGNALS, correlation, padded, summary


def per_trial(predictions: np.ndarray, references: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Correlations (N,) of signals (N, T) over the frames that count; NaN where one of them is constant."""
    return correlation(predictions, references, mask)


class Pearson(ArrayMetric):
    """The metric as `evaluate` loads it: ragged lists, one a trial."""

    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), a list a trial."""
        return evaluate.MetricInfo(
            description="Pearson's correlation within each trial, averaged over trials.",
            citation="",
            inputs_description=__doc__,
            features=SIGNALS,
        )

    def _compute(self, predictions: list, references: list, mask: list) -> dict[str, float | int | None]:
        """The mean over trials, and how many have no score."""
        return summary("pearson", per_trial(*padded(predictions, references, mask)))
