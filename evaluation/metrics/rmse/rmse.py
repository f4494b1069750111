"""Root mean squared error of a signal per trial, in the unit of the signal."""

import evaluate
import numpy as np

from evaluation.array_metric import ArrayMetric
from evaluation.masked import SIGNALS, masked_mean, padded, summary


def per_trial(predictions: np.ndarray, references: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return errors (N,) of signals (N, T) over the frames that count; NaN for a trial without any."""
    error = np.where(mask, predictions, 0.0) - np.where(mask, references, 0.0)
    return np.sqrt(masked_mean(error**2, mask))


class Rmse(ArrayMetric):
    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), one list per trial."""
        return evaluate.MetricInfo(
            description="Root mean squared error within each trial, averaged over trials.",
            citation="",
            inputs_description=__doc__,
            features=SIGNALS,
        )

    def _compute(self, predictions: list, references: list, mask: list) -> dict[str, float | int | None]:
        return summary("rmse", per_trial(*padded(predictions, references, mask)))
