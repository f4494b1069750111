"""Area under the ROC curve: how often a clip with the sound scores higher than a clip without it."""

import evaluate

from evaluation.array_metric import ArrayMetric
from evaluation.detection import roc_auc
from evaluation.labels import LABELS, over_labels


class RocAuc(ArrayMetric):
    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions` (scores) and `references` (1 or 0), a number per clip, or a list of L per clip."""
        return evaluate.MetricInfo(
            description="The area under the ROC curve of clips ranked by score, averaged over labels.",
            citation="",
            inputs_description=__doc__,
            features=LABELS,
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float | int | None]:
        return over_labels("roc_auc", roc_auc, predictions, references)
