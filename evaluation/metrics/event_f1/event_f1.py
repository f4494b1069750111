"""Events that were found when they happened: F1, precision and recall of onsets and offsets."""

import datasets
import evaluate
import numpy as np

from evaluation.events import OFFSET_COLLAR, OFFSET_SHARE, ONSET_COLLAR, event_counts, event_scores

EVENTS = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))  # onset and offset in seconds


class EventF1(evaluate.Metric):
    """The metric as `evaluate` loads it: a list of events a file."""

    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions` and `references`, a list of [onset, offset] in seconds a file."""
        return evaluate.MetricInfo(
            description="F1, precision and recall of events over all files, by onset and offset.",
            citation="Mesaros, Heittola & Virtanen (2016). Metrics for polyphonic sound event detection. "
            "Applied Sciences 6.",
            inputs_description=__doc__,
            features=datasets.Features({"predictions": EVENTS, "references": EVENTS}),
        )

    def _compute(
        self,
        predictions: list,
        references: list,
        onset_collar: float = ONSET_COLLAR,
        offset_collar: float = OFFSET_COLLAR,
        offset_share: float = OFFSET_SHARE,
    ) -> dict[str, float | int | None]:
        """The scores, None where they divide by no event, and what they are made of."""
        counts = np.zeros((len(references), 3), int)
        for file, pair in enumerate(zip(predictions, references, strict=True)):
            try:
                counts[file] = event_counts(*pair, onset_collar, offset_collar, offset_share)
            except ValueError as error:
                raise ValueError(f"file {file}: {error}") from error
        scores = {name: None if np.isnan(value) else value for name, value in event_scores(counts).items()}
        hits, false_alarms, misses = counts.sum(axis=0).tolist()
        return scores | {"files": len(counts), "hits": hits, "false_alarms": false_alarms, "misses": misses}
