"""Skin conductance responses that were predicted where they happened: F1, precision and recall of events."""

import evaluate
import numpy as np

from evaluation.array_metric import ArrayMetric
from evaluation.masked import SIGNALS, padded, summary

THRESHOLD = 0.05  # uS, the smallest rise from trough to peak that is a response
TOLERANCE_SECONDS = 1.0  # s, between a predicted peak and the one that it is matched with


def per_trial(
    predictions: np.ndarray,
    references: np.ndarray,
    mask: np.ndarray,
    frame_rate: float,
    threshold: float = THRESHOLD,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> np.ndarray:
    """F1 (N,) of the responses in signals (N, T) at `frame_rate` Hz; NaN where neither signal has one."""
    return event_scores(predictions, references, mask, frame_rate, threshold, tolerance_seconds)["scr_f1"]


def event_scores(
    predictions: np.ndarray,
    references: np.ndarray,
    mask: np.ndarray,
    frame_rate: float,
    threshold: float = THRESHOLD,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> dict[str, np.ndarray]:
    """F1, precision and recall (N,); NaN where they divide by no event."""
    if not (frame_rate > 0 and threshold > 0 and tolerance_seconds >= 0):
        raise ValueError(
            f"{frame_rate = } Hz and {threshold = } must be positive and {tolerance_seconds = } s not negative"
        )
    predicted, happened = (peaks(values, mask, threshold) for values in (predictions, references))
    hits = matches(predicted, happened, tolerance_seconds * frame_rate + 1e-9)
    predictions_made, events = (np.isfinite(frames).sum(axis=1) for frames in (predicted, happened))
    with np.errstate(invalid="ignore"):
        return {
            "scr_f1": 2 * hits / (predictions_made + events),
            "precision": hits / predictions_made,
            "recall": hits / events,
        }


def peaks(values: np.ndarray, mask: np.ndarray, threshold: float) -> np.ndarray:
    """The frames at which responses of signals (N, T) peak, in order: (N, E), the rest infinite.

    A response is an unbroken rise, each frame above the one before, by at least `threshold` in all. It ends where the
    signal stops rising or its frames stop counting; a rise that an edge cuts counts with what is seen of it. The last
    column is always infinite.
    """
    values = np.where(mask, values, 0.0)
    # rises[:, t]: frame t lies above frame t - 1
    rises = np.zeros((len(values), values.shape[1] + 1), dtype=bool)
    rises[:, 1:-1] = (values[:, 1:] > values[:, :-1]) & mask[:, 1:] & mask[:, :-1]
    trial, trough = np.nonzero(rises[:, 1:] & ~rises[:, :-1])
    _, peak = np.nonzero(rises[:, :-1] & ~rises[:, 1:])
    tall = values[trial, peak] - values[trial, trough] >= threshold
    trial, peak = trial[tall], peak[tall]
    counts = np.bincount(trial, minlength=len(values))
    column = np.arange(len(trial)) - np.repeat(np.cumsum(counts) - counts, counts)
    frames = np.full((len(values), counts.max(initial=0) + 1), np.inf)
    frames[trial, column] = peak
    return frames


def matches(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    """The most pairs (N,) that can be made one to one of sorted times (N, E) and (N, F) no further apart than this.

    In order of time, the earlier of the two next events is paired with the other or given up; no choice does better.
    """
    trials = np.arange(len(a))
    i, j, hits = (np.zeros(len(a), dtype=int) for _ in range(3))
    for _ in range(a.shape[1] + b.shape[1] - 2):
        x, y = a[trials, i], b[trials, j]
        with np.errstate(invalid="ignore"):
            hit = np.abs(x - y) <= tolerance
        hits += hit
        i += hit | (x < y)
        j += hit | (y < x)
    return hits


class ScrF1(ArrayMetric):
    """The metric as `evaluate` loads it: ragged lists, one a trial."""

    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), a list a trial."""
        return evaluate.MetricInfo(
            description="F1, precision and recall of skin conductance responses, averaged over trials.",
            citation="",
            inputs_description=__doc__,
            features=SIGNALS,
        )

    def _compute(
        self,
        predictions: list,
        references: list,
        mask: list,
        frame_rate: float,
        threshold: float = THRESHOLD,
        tolerance_seconds: float = TOLERANCE_SECONDS,
    ) -> dict[str, float | int | None]:
        """The means over trials; `trials` and `undefined` speak of F1, precision and recall have their own counts."""
        scores = event_scores(*padded(predictions, references, mask), frame_rate, threshold, tolerance_seconds)
        result = summary("scr_f1", scores["scr_f1"])
        for name in ("precision", "recall"):
            part = summary(name, scores[name])
            result |= {name: part[name], f"{name}_undefined": part["undefined"]}
        return result
