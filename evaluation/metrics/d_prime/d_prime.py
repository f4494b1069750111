"""d': how far apart lie the scores of clips with the sound and without, in standard deviations?"""

import evaluate

from evaluation.detection import d_prime
from evaluation.labels import LABELS, over_labels


class DPrime(evaluate.Metric):
    """The metric as `evaluate` loads it: a score and a target a clip, or one a clip and label."""

    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions` (scores) and `references` (1 or 0), a number a clip or a list of L a clip."""
        return evaluate.MetricInfo(
            description="sqrt(2) times the normal quantile of the area under the ROC curve, averaged over labels.",
            citation="",
            inputs_description=__doc__,
            features=LABELS,
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float | int | None]:
        """The mean over labels, and how many have no score."""
        return over_labels("d_prime", d_prime, predictions, references)
