"""Metrics of `evaluate` that score arrays as they are."""

from abc import ABC, abstractmethod
from typing import Any

import evaluate


class ArrayMetric(evaluate.Metric, ABC):
    """A metric that skips the way through Arrow, a microsecond per number, where it is given all rows at once."""

    @abstractmethod  # so that `evaluate` takes this for no metric
    def _info(self) -> evaluate.MetricInfo: ...

    def compute(self, *, predictions: Any = None, references: Any = None, **rest: Any) -> dict[str, Any] | None:
        """Return the score of these rows, or of those that were added before.

        Args:
            predictions, references: lists or arrays, one entry per row.
            rest: further inputs and options of the metric.
        """
        if predictions is None or len(self) or self.num_process > 1:
            return super().compute(predictions=predictions, references=references, **rest)
        return self._compute(predictions=predictions, references=references, **rest)
