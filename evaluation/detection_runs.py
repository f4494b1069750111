"""Measures of a detector averaged over several runs on the same clips, with intervals."""

# N clips, S resamples

from collections.abc import Sequence

import numpy as np

from evaluation.detection import SAMPLES, Ranking, area_under_precision, area_under_roc, interval_of, resamples
from evaluation.intervals import LEVEL, Interval

MEASURES = {"average_precision": area_under_precision, "roc_auc": area_under_roc}


def bootstrap_runs(
    runs: Sequence[np.ndarray],
    targets: np.ndarray,
    others: Sequence[np.ndarray] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Average precision and ROC-AUC over runs on the same clips, with intervals over clips.

    Args:
        runs: scores (N,) of each run.
        others: scores of the runs to compare with. If given, the results are differences, on the same resamples.
    """
    clips = np.arange(len(targets))
    sides = [[Ranking.of(run, targets).weighted(clips, len(clips)) for run in side] for side in (runs, others or [])]

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        counts = [[count(weights) for count in side] for side in sides]
        means = {
            name: [np.mean([area(*of_run) for of_run in side], axis=0) for side in counts if side]
            for name, area in MEASURES.items()
        }
        return {name: values[0] - values[1] if others else values[0] for name, values in means.items()}

    on_all_clips = measure(np.ones((1, len(clips))))
    parts = [measure(weights) for weights in resamples(clips, samples, seed)]
    counts = {"positives": int(np.sum(targets)), "negatives": int(len(clips) - np.sum(targets))}
    return {
        name: interval_of(
            float(value[0]), np.concatenate([part[name] for part in parts]), counts, len(clips), 0, level
        )
        for name, value in on_all_clips.items()
    }
