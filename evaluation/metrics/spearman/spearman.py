"""Spearman's rank correlation of two signals within each trial."""

import evaluate
import numpy as np
from scipy.stats import rankdata

from evaluation.array_metric import ArrayMetric
from evaluation.masked import SIGNALS, centred, correlation, padded, summary


def per_trial(predictions: np.ndarray, references: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return correlations (N,) of the ranks of signals (N, T) over the frames that count; NaN if one is constant.

    Equal values share their mean rank.
    """
    # Infinity ranks the frames that do not count last, so they do not shift the other ranks.
    ranks = [rankdata(np.where(mask, values, np.inf), axis=1) for values in (predictions, references)]
    varies = [centred(values, mask)[1] > 0 for values in (predictions, references)]
    return np.where(varies[0] & varies[1], correlation(*ranks, mask), np.nan)


class Spearman(ArrayMetric):
    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), one list per trial."""
        return evaluate.MetricInfo(
            description="Spearman's rank correlation within each trial, averaged over trials.",
            citation="",
            inputs_description=__doc__,
            features=SIGNALS,
        )

    def _compute(self, predictions: list, references: list, mask: list) -> dict[str, float | int | None]:
        return summary("spearman", per_trial(*padded(predictions, references, mask)))
