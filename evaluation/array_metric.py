"""A base class for `evaluate` metrics that score arrays directly."""

from abc import ABC, abstractmethod
from typing import Any

import evaluate


class ArrayMetric(evaluate.Metric, ABC):
    """A metric that skips the Arrow round trip when `compute` gets all rows at once."""

    # Abstract, so that `evaluate.load` does not pick this class as the metric of a module that imports it.
    @abstractmethod
    def _info(self) -> evaluate.MetricInfo: ...

    def compute(self, *, predictions: Any = None, references: Any = None, **rest: Any) -> dict[str, Any] | None:
        """Return the score of these rows, or of the rows added before with `add` or `add_batch`.

        Args:
            predictions, references: lists or arrays, one entry per row.
            rest: further inputs and options of the metric.
        """
        # Arrow costs about 1 us per number. Rows added earlier, or in other processes, exist only there.
        if predictions is None or len(self) or self.num_process > 1:
            return super().compute(predictions=predictions, references=references, **rest)
        return self._compute(predictions=predictions, references=references, **rest)
