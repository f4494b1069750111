"""F1, precision and recall of predicted skin conductance responses, as events in time."""

import evaluate
import numpy as np

from evaluation.array_metric import ArrayMetric
from evaluation.masked import SIGNALS, padded, summary

THRESHOLD = 0.05  # uS, smallest rise from trough to peak that counts as a response
TOLERANCE_SECONDS = 1.0  # s, largest distance of a predicted peak and the measured peak that it matches


def per_trial(
    predictions: np.ndarray,
    references: np.ndarray,
    mask: np.ndarray,
    frame_rate: float,
    threshold: float = THRESHOLD,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> np.ndarray:
    """Return the F1 (N,) of the responses in signals (N, T) at `frame_rate` Hz; NaN if neither signal has one."""
    return event_scores(predictions, references, mask, frame_rate, threshold, tolerance_seconds)["scr_f1"]


def event_scores(
    predictions: np.ndarray,
    references: np.ndarray,
    mask: np.ndarray,
    frame_rate: float,
    threshold: float = THRESHOLD,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> dict[str, np.ndarray]:
    """Return F1, precision and recall, (N,) each; NaN where they would divide by 0."""
    if not (frame_rate > 0 and threshold > 0 and tolerance_seconds >= 0):
        raise ValueError(
            f"frame_rate={frame_rate}, threshold={threshold}, tolerance_seconds={tolerance_seconds}: rate and "
            "threshold must be above 0, the tolerance not negative. Give Hz, uS and seconds."
        )
    predicted, measured = (peaks(values, mask, threshold) for values in (predictions, references))
    hits = matches(predicted, measured, tolerance_seconds * frame_rate + 1e-9)
    predicted_count, measured_count = (np.isfinite(frames).sum(axis=1) for frames in (predicted, measured))
    with np.errstate(invalid="ignore"):
        return {
            "scr_f1": 2 * hits / (predicted_count + measured_count),
            "precision": hits / predicted_count,
            "recall": hits / measured_count,
        }


def peaks(values: np.ndarray, mask: np.ndarray, threshold: float) -> np.ndarray:
    """Return the frames at which responses of signals (N, T) peak, in order: (N, E), padded with infinity.

    A response is an unbroken rise, each frame above the one before, by at least `threshold` in total. It ends where
    the signal stops rising or frames stop counting. Of a rise that is cut by an edge, the visible part counts. The
    last column is always infinite, which `matches` relies on.
    """
    values = np.where(mask, values, 0.0)
    # rises[:, t]: frame t is above frame t - 1. One column more than frames, so that every rise has an end.
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
    """Return the largest number (N,) of one-to-one pairs of sorted times (N, E) and (N, F) within the tolerance."""
    # Of the next event in each signal, pair the two if they are close enough, otherwise drop the earlier one. In one
    # dimension and with one tolerance for all events, this greedy choice is optimal.
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
    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), one list per trial."""
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
        # `trials` and `undefined` are of F1; precision and recall have separate counts.
        scores = event_scores(*padded(predictions, references, mask), frame_rate, threshold, tolerance_seconds)
        result = summary("scr_f1", scores["scr_f1"])
        for name in ("precision", "recall"):
            part = summary(name, scores[name])
            result |= {name: part[name], f"{name}_undefined": part["undefined"]}
        return result
