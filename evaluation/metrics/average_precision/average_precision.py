"""Average precision of clips ranked by score."""

import evaluate

from evaluation.array_metric import ArrayMetric
from evaluation.detection import average_precision
from evaluation.labels import LABELS, over_labels


class AveragePrecision(ArrayMetric):
    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions` (scores) and `references` (1 or 0), a number per clip, or a list of L per clip."""
        return evaluate.MetricInfo(
            description="Step-wise average precision of clips ranked by score, averaged over labels.",
            citation="",
            inputs_description=__doc__,
            features=LABELS,
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float | int | None]:
        return over_labels("average_precision", average_precision, predictions, references)
