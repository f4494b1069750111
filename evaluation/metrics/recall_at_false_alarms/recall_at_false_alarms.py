"""Recall at a number of false alarms per hour: what does a listener who bears so many get to hear?"""

import datasets
import evaluate
import numpy as np

from evaluation.detection import recall_at_false_alarms

PER_HOUR = 10.0


class RecallAtFalseAlarms(evaluate.Metric):
    """The metric as `evaluate` loads it: a score and a target a clip."""

    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions` (scores) and `references` (1 or 0), a number a clip."""
        return evaluate.MetricInfo(
            description="Recall at the lowest threshold that keeps to a number of false alarms per hour.",
            citation="",
            inputs_description=__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(
        self, predictions: list, references: list, hours: float, per_hour: float = PER_HOUR
    ) -> dict[str, float | int | None]:
        """The recall, None where it is not defined, with the number of positives that it is a share of."""
        recall = recall_at_false_alarms(np.array(predictions), np.array(references), hours, per_hour)
        positives = int(np.sum(references))
        return {
            "recall_at_false_alarms": None if np.isnan(recall) else recall,
            "positives": positives,
            "negatives": len(references) - positives,
        }
