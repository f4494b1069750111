"""Macro F1: the mean F1 of the classes, each with the same weight."""

import datasets
import evaluate

from evaluation.array_metric import ArrayMetric
from evaluation.confusion import one_score


class MacroF1(ArrayMetric):
    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions` and `references`, class codes (N,) from 0."""
        return evaluate.MetricInfo(
            description="F1 of each class, averaged over the classes that occur.",
            citation="",
            inputs_description=__doc__,
            features=datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("int64"))),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float | int | None]:
        return one_score("macro_f1", predictions, references)
