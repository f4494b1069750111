"""Confidence intervals of a mean over trials: a bootstrap over songs, listeners or both, never over frames or trials.

The trials of one song (or one listener) resemble each other, so whole songs are drawn with replacement, with all their
trials. Over both, the deviations of a resample of songs and of a resample of listeners are added. The noise of single
trials is in both, so the sum is shrunk to the variance songs + listeners - trials (Cameron, Gelbach & Miller 2011,
Journal of Business & Economic Statistics 29), but never below the variance of either alone. Drawing both at once (the
pigeonhole bootstrap) would count the noise of trials three times: on mostly independent trials its intervals are 1.7
times too wide.

With few clusters the plain percentile interval is too narrow. Its level is therefore raised to that of Student's t for
this number of clusters (Hesterberg 2015, The American Statistician 69). Below 6 clusters nothing helps: by chance, all
of them are on one side of the truth in one case of 2 ** (clusters - 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

OVER = {"songs": ("songs",), "listeners": ("listeners",), "both": ("songs", "listeners")}
LEVEL = 0.95
TOLERANCE = 1e-9  # rounding error of shares and rates: 0.9 * 10 clips must count as 9


@dataclass(frozen=True)
class Interval:
    """A mean over trials and its bounds; None, with a reason, if they are not defined."""

    mean: float | None
    low: float | None
    high: float | None
    clusters: dict[str, int]  # those with a defined value: {"songs": 120}
    samples: int  # resamples that the bounds are based on
    trials: int  # trials with a defined value
    undefined: int  # trials left out
    reason: str | None = None


def bootstrap(
    values: np.ndarray,
    songs: Sequence[str] | np.ndarray,
    listeners: Sequence[str] | np.ndarray,
    over: str = "songs",
    samples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval | list[Interval]:
    """Return the interval of the mean of values (N,), one per trial.

    NaN (an undefined score) is left out and counted. For the interval of a difference, pass the differences.

    Args:
        values: (N,), or (K, N) for a list of K intervals on the same resamples.
        over: "songs", "listeners" or "both": the clusters to draw.
    """
    values = np.asarray(values, dtype=np.float64)
    check_request(values, songs, listeners, over, samples, level)
    rows = np.atleast_2d(values)
    defined = np.isfinite(rows)
    ids = {"songs": songs, "listeners": listeners}
    codes = {name: np.unique(np.asarray(ids[name], dtype=str), return_inverse=True)[1] for name in OVER[over]}
    means = resampled_means(rows, defined, list(codes.values()), samples, seed)  # (samples, K)
    intervals = []
    for row, kept, resampled in zip(rows, defined, means.T, strict=True):
        clusters = {name: len(np.unique(code[kept])) for name, code in codes.items()}
        intervals.append(interval(row[kept], int((~kept).sum()), clusters, resampled, level))
    return intervals if values.ndim == 2 else intervals[0]


def check_request(
    values: np.ndarray,
    songs: Sequence[str] | np.ndarray,
    listeners: Sequence[str] | np.ndarray,
    over: str,
    samples: int,
    level: float,
) -> None:
    if over not in OVER:
        raise ValueError(f"over={over!r}: unknown. Must be one of {', '.join(OVER)}.")
    if values.ndim not in (1, 2) or not values.shape[-1] == len(songs) == len(listeners):
        raise ValueError(
            f"values.shape={values.shape}: must be (N,) or (K, N), but there are {len(songs)} songs and "
            f"{len(listeners)} listeners. Give a song and a listener per trial."
        )
    if not len(songs):
        raise ValueError("values=0 trials: nothing to average. Change split_seed, the fractions or the data.")
    if samples < 1 or not 0 < level < 1:
        raise ValueError(
            f"samples={samples}, level={level}: samples must be at least 1, level between 0 and 1. Fix the one "
            "that is out of range."
        )


def resampled_means(
    rows: np.ndarray, defined: np.ndarray, codes: list[np.ndarray], samples: int, seed: int
) -> np.ndarray:
    """Return the means (samples, K) of rows (K, N) over resamples; NaN if a resample has no defined value.

    Args:
        codes: the cluster of each trial (N,), for one kind of cluster or two.
    """
    generator = np.random.default_rng(seed)
    filled = np.where(defined, rows, 0.0).T  # (N, K)
    number = defined.T.astype(np.float64)  # (N, K)
    resampled = [means_over(code, filled, number, samples, generator) for code in codes]
    if len(resampled) == 1:
        return resampled[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / number.sum(axis=0)  # (K,)
        # The variance of the mean of independent trials, which both kinds of cluster contain.
        of_trials = ((number * (filled - mean)) ** 2).sum(axis=0) / number.sum(axis=0) ** 2
    deviations = [means - mean for means in resampled]
    finite = [np.isfinite(deviation) for deviation in deviations]
    variances = [
        (np.where(is_finite, deviation, 0.0) ** 2).sum(axis=0) / np.maximum(is_finite.sum(axis=0), 1)
        for is_finite, deviation in zip(finite, deviations, strict=True)
    ]
    return mean + sum(deviations) * shrinkage(variances, of_trials)


def shrinkage(variances: list[np.ndarray], of_trials: np.ndarray) -> np.ndarray:
    """Return the factor (K,) for the summed deviations of two kinds of cluster; 1 if nothing varies."""
    wanted = np.maximum(sum(variances) - of_trials, np.maximum(*variances))
    summed = sum(variances)
    return np.sqrt(np.where(summed > 0, wanted / np.where(summed > 0, summed, 1.0), 1.0))


def means_over(
    code: np.ndarray, filled: np.ndarray, number: np.ndarray, samples: int, generator: np.random.Generator
) -> np.ndarray:
    """Return the means (samples, K) of values (N, K), where `number` (N, K) is 1, over drawn clusters (N,)."""
    size = code.max() + 1
    counts = generator.multinomial(size, np.full(size, 1 / size), size=samples).astype(np.float64)  # (samples, size)
    sums, numbers = (np.stack([np.bincount(code, column, size) for column in part.T]) for part in (filled, number))
    with np.errstate(invalid="ignore"):
        return (counts @ sums.T) / (counts @ numbers.T)


def interval(
    values: np.ndarray, undefined: int, clusters: dict[str, int], resampled: np.ndarray, level: float
) -> Interval:
    """Return the interval of the mean of defined values (trials,), from its resampled means."""
    fewest = min(clusters, key=clusters.__getitem__)
    resampled = resampled[np.isfinite(resampled)]
    if not len(values):
        return Interval(None, None, None, clusters, 0, 0, undefined, "no trial has a defined value")
    mean = float(values.mean())
    if clusters[fewest] < 2:
        reason = f"all trials are of one {fewest.removesuffix('s')}: an interval over {fewest} needs at least 2"
        return Interval(mean, None, None, clusters, 0, len(values), undefined, reason)
    tail = tail_of(level, clusters[fewest])
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), clusters, len(resampled), len(values), undefined)


def interval_of(
    value: float,
    drawn: np.ndarray,
    clusters: dict[str, int],
    rows: int,
    left_out: int = 0,
    level: float = LEVEL,
    kind: str = "recording",
) -> Interval:
    """Return the interval of a measure from its resamples (S,), NaN where it is not defined.

    Args:
        clusters: number of clusters that the measure depends on, by name; the smallest decides the width.
        kind: name of what was drawn, singular, for the reason.
    """
    drawn = drawn[np.isfinite(drawn)]
    fewest = min(clusters, key=clusters.__getitem__)
    if not np.isfinite(value):
        lacking = [side for side, count in clusters.items() if not count]
        reason = f"there are no {' and no '.join(lacking)}" if lacking else "it would divide by 0"
        return Interval(None, None, None, clusters, 0, rows, left_out, reason)
    if clusters[fewest] < 2:
        count = f"there is one {kind}" if fewest == f"{kind}s" else f"all {fewest} are of one {kind}"
        reason = f"{count}: an interval over {kind}s needs at least 2"
        return Interval(value, None, None, clusters, 0, rows, left_out, reason)
    if not len(drawn) or np.ptp(drawn) < TOLERANCE:
        reason = f"all resamples give {value:.4g}, so its uncertainty is unknown"
        return Interval(value, None, None, clusters, len(drawn), rows, left_out, reason)
    tail = tail_of(level, clusters[fewest])
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high), clusters, len(drawn), rows, left_out)


def tail_of(level: float, clusters: int) -> float:
    """Return the share of resampled means beyond each bound: below (1 - level) / 2, to correct for few clusters."""
    return float(ndtr(stdtrit(clusters - 1, (1 - level) / 2) * np.sqrt(clusters / (clusters - 1))))
