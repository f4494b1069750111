"""Average precision: how pure is the top of the ranking, down to the last clip that holds the sound?"""

import evaluate

from evaluation.array_metric import ArrayMetric
from evaluation.detection import average_precision
from evaluation.labels import LABELS, over_labels


class AveragePrecision(ArrayMetric):
    """The metric as `evaluate` loads it: a score and a target a clip, or one a clip and label."""

    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions` (scores) and `references` (1 or 0), a number a clip or a list of L a clip."""
        return evaluate.MetricInfo(
            description="Step-wise average precision of clips ranked by score, averaged over labels.",
            citation="",
            inputs_description=__doc__,
            features=LABELS,
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float | int | None]:
        """The mean over labels, and how many have no score."""
        return over_labels("average_precision", average_precision, predictions, references)
