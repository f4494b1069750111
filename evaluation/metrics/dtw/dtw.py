"""Dynamic time warping within each trial: the distance of two signals that may lag each other a little."""

import evaluate
import numpy as np

from evaluation.array_metric import ArrayMetric
from evaluation.masked import SIGNALS, padded, summary

BAND_SECONDS = 2.0  # s, largest lag at which two frames can be matched


def per_trial(
    predictions: np.ndarray,
    references: np.ndarray,
    mask: np.ndarray,
    frame_rate: float,
    band_seconds: float = BAND_SECONDS,
) -> np.ndarray:
    """Return the mean absolute difference (N,) along the best alignment of signals (N, T), in their unit.

    The symmetric form of Sakoe and Chiba: a diagonal step weighs 2, the sum is divided by twice the number of frames.
    So it never exceeds the mean absolute error, and equals it at a band of 0. Frames that do not count are removed
    from both signals; the others keep their times, and frames further apart than the band are never matched. NaN for a
    trial without frames.

    Args:
        frame_rate: of the signals, in Hz.
    """
    if not (frame_rate > 0 and band_seconds >= 0):
        raise ValueError(
            f"frame_rate={frame_rate}, band_seconds={band_seconds}: the rate must be above 0, the band not negative. "
            "Give Hz and seconds."
        )
    band = int(band_seconds * frame_rate + 1e-9)  # frames; rounded down, except for rounding errors of the product
    frames = mask.sum(axis=1)  # (N,)
    # Frames that count come first, then the others. Shape (T, N), so that each step below reads contiguous rows.
    times = np.argsort(~mask, axis=1, kind="stable").T[: frames.max(initial=0)]
    p, r = (
        np.take_along_axis(np.where(mask, values, 0.0).T.astype(np.float64), times, axis=0)
        for values in (predictions, references)
    )
    has_gaps = (np.diff(times, axis=0) > 1).any()
    # best[row]: cost of the cheapest path to the last reached cell (i, j) on the diagonal i - j = row - centre. The
    # first and last row are outside the band and stay infinite.
    best = np.full((2 * band + 3, len(frames)), np.inf)
    centre = band + 1
    best[centre] = 0
    total = np.full(len(frames), np.nan)
    # One step handles all cells with i + j = step, which do not depend on each other. All trials go together.
    for step in range(2 * len(times) - 1):
        reach = min(band, step, 2 * (len(times) - 1) - step)  # the largest i - j
        reach -= (reach - step) % 2
        cells = slice((step - reach) // 2, (step + reach) // 2 + 1)
        cost = np.abs(p[cells] - r[cells][::-1])
        if has_gaps:
            cost[np.abs(times[cells] - times[cells][::-1]) > band] = np.inf
        below, here, above = (slice(centre - reach + by, centre + reach + by + 1, 2) for by in (-1, 0, 1))
        best[here] = np.minimum(best[here] + 2 * cost, np.minimum(best[below], best[above]) + cost)
        if step % 2 == 0:  # the last cell of a trial of n frames is (n - 1, n - 1)
            finished = frames == step // 2 + 1
            total[finished] = best[centre, finished]
    return total / (2 * np.maximum(frames, 1))


class Dtw(ArrayMetric):
    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), one list per trial."""
        return evaluate.MetricInfo(
            description="Distance along the best alignment within a band, within each trial, averaged over trials.",
            citation="Sakoe and Chiba (1978). Dynamic programming algorithm optimization for spoken word recognition.",
            inputs_description=__doc__,
            features=SIGNALS,
        )

    def _compute(
        self, predictions: list, references: list, mask: list, frame_rate: float, band_seconds: float = BAND_SECONDS
    ) -> dict[str, float | int | None]:
        scores = per_trial(*padded(predictions, references, mask), frame_rate=frame_rate, band_seconds=band_seconds)
        return summary("dtw", scores)
