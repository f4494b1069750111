"""Area under the ROC curve: how often does a clip with the sound score higher than one without?"""

import evaluate

from evaluation.array_metric import ArrayMetric
from evaluation.detection import roc_auc
from evaluation.labels import LABELS, over_labels


class RocAuc(ArrayMetric):
    """The metric as `evaluate` loads it: a score and a target a clip, or one a clip and label."""

    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions` (scores) and `references` (1 or 0), a number a clip or a list of L a clip."""
        return evaluate.MetricInfo(
            description="The area under the ROC curve of clips ranked by score, averaged over labels.",
            citation="",
            inputs_description=__doc__,
            features=LABELS,
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float | int | None]:
        """The mean over labels, and how many have no score."""
        return over_labels("roc_auc", roc_auc, predictions, references)
