"""Lin's concordance correlation within each trial: how near do the points lie to the line of equality?"""

import evaluate
import numpy as np

from evaluation.array_metric import ArrayMetric
from evaluation.masked import SIGNALS, centred, masked_mean, padded, summary


def per_trial(predictions: np.ndarray, references: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Concordances (N,) of signals (N, T) over the frames that count; NaN where the reference is constant.

    2 cov / (var + var + squared difference of the means), with variances over the number of frames. A constant
    prediction agrees with nothing: 0.
    """
    difference = masked_mean(predictions, mask) - masked_mean(references, mask)
    predictions, variance_predictions = centred(predictions, mask)
    references, variance_references = centred(references, mask)
    covariance = np.where(variance_predictions > 0, masked_mean(predictions * references, mask), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        concordance = 2 * covariance / (variance_predictions + variance_references + difference**2)
    return np.where(variance_references > 0, concordance, np.nan)


class Ccc(ArrayMetric):
    """The metric as `evaluate` loads it: ragged lists, one a trial."""

    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), a list a trial."""
        return evaluate.MetricInfo(
            description="Lin's concordance correlation within each trial, averaged over trials.",
            citation="Lin (1989). A concordance correlation coefficient to evaluate reproducibility. Biometrics 45.",
            inputs_description=__doc__,
            features=SIGNALS,
        )

    def _compute(self, predictions: list, references: list, mask: list) -> dict[str, float | int | None]:
        """The mean over trials, and how many have no score."""
        return summary("ccc", per_trial(*padded(predictions, references, mask)))
