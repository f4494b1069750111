"""Lin's concordance correlation within each trial: how close the points are to the line of equality."""

import evaluate
import numpy as np

from evaluation.array_metric import ArrayMetric
from evaluation.masked import SIGNALS, centred, masked_mean, padded, summary


def per_trial(predictions: np.ndarray, references: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return concordances (N,) of signals (N, T) over the frames that count; NaN if the reference is constant.

    2 cov / (var + var + squared difference of the means), with variances over the number of frames. A constant
    prediction scores 0.
    """
    difference = masked_mean(predictions, mask) - masked_mean(references, mask)
    predictions, variance_predictions = centred(predictions, mask)
    references, variance_references = centred(references, mask)
    covariance = np.where(variance_predictions > 0, masked_mean(predictions * references, mask), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        concordance = 2 * covariance / (variance_predictions + variance_references + difference**2)
    return np.where(variance_references > 0, concordance, np.nan)


class Ccc(ArrayMetric):
    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), one list per trial."""
        return evaluate.MetricInfo(
            description="Lin's concordance correlation within each trial, averaged over trials.",
            citation="Lin (1989). A concordance correlation coefficient to evaluate reproducibility. Biometrics 45.",
            inputs_description=__doc__,
            features=SIGNALS,
        )

    def _compute(self, predictions: list, references: list, mask: list) -> dict[str, float | int | None]:
        return summary("ccc", per_trial(*padded(predictions, references, mask)))
