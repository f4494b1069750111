"""How sure a mean over trials is: a bootstrap over songs, over listeners, or over both; never over frames or trials.

The trials of one song (or one listener) resemble each other, so a song counts once: whole songs are drawn with
replacement, with all their trials. Over both, the deviations of a resample of songs and of one of listeners are added.
What a trial has of its own is in both of them, so the sum is shrunk to the variance of songs + listeners - trials
(Cameron, Gelbach & Miller 2011, Journal of Business & Economic Statistics 29), and never below that of either alone.
Drawing both at once (the pigeonhole bootstrap) would count that own part three times: on mostly independent trials its
intervals are 1.7 times too wide.

Few clusters make the plain percentile interval too narrow; its level is therefore raised to what Student's t asks of
that many clusters (Hesterberg 2015, The American Statistician 69). Nothing helps below 6 clusters: all of them lie on
one side of the truth by chance in one case of 2 ** (clusters - 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

OVER = {"songs": ("songs",), "listeners": ("listeners",), "both": ("songs", "listeners")}
LEVEL = 0.95
TOLERANCE = 1e-9  # a share or rate that was asked for may be missed by so much: 0.9 * 10 clips are 9


@dataclass(frozen=True)
class Interval:
    """A mean over trials and its bounds, None where they cannot be had, with the reason."""

    mean: float | None
    low: float | None
    high: float | None
    clusters: dict[str, int]  # with a defined value: {"songs": 120}
    samples: int  # the resamples behind the bounds
    trials: int  # with a defined value
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
    """The interval of the mean of values (N,), one a trial; of values (K, N), a list of K that share their resamples.

    NaN (an undefined score) is left out and counted. The interval of a difference is that of the values' differences.
    """
    values = np.asarray(values, dtype=np.float64)
    check_request(values, songs, listeners, over, samples, level)
    rows = np.atleast_2d(values)
    defined = np.isfinite(rows)
    ids = {"songs": songs, "listeners": listeners}
    codes = {kind: np.unique(np.asarray(ids[kind], dtype=str), return_inverse=True)[1] for kind in OVER[over]}
    means = resampled_means(rows, defined, list(codes.values()), samples, seed)  # (samples, K)
    intervals = []
    for row, kept, resampled in zip(rows, defined, means.T, strict=True):
        clusters = {kind: len(np.unique(code[kept])) for kind, code in codes.items()}
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
    """Refuse what cannot be resampled."""
    if over not in OVER:
        raise ValueError(f"over = {over!r} is not known; an interval is over one of {', '.join(OVER)}")
    if values.ndim not in (1, 2) or not values.shape[-1] == len(songs) == len(listeners):
        raise ValueError(
            f"{values.shape = } must be (N,) or (K, N), with N songs and listeners; "
            f"there are {len(songs)} and {len(listeners)}"
        )
    if not len(songs):
        raise ValueError("there is no trial to average; change split_seed, the fractions or the data")
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"samples = {samples} must be 1 or more and level = {level} between 0 and 1")


def resampled_means(
    rows: np.ndarray, defined: np.ndarray, codes: list[np.ndarray], samples: int, seed: int
) -> np.ndarray:
    """Means (samples, K) of rows (K, N) over resamples of one kind of cluster, or of two; codes: (N,) each.

    NaN where a resample holds no defined value.
    """
    generator = np.random.default_rng(seed)
    filled = np.where(defined, rows, 0.0).T  # (N, K)
    number = defined.T.astype(np.float64)  # (N, K)
    resampled = [means_over(code, filled, number, samples, generator) for code in codes]
    if len(resampled) == 1:
        return resampled[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / number.sum(axis=0)  # (K,)
        own = ((number * (filled - mean)) ** 2).sum(axis=0) / number.sum(
            axis=0
        ) ** 2  # the variance of a mean of trials
    deviations = [each - mean for each in resampled]
    finite = [np.isfinite(each) for each in deviations]
    variances = [
        (np.where(kept, each, 0.0) ** 2).sum(axis=0) / np.maximum(kept.sum(axis=0), 1)
        for kept, each in zip(finite, deviations, strict=True)
    ]
    return mean + sum(deviations) * shrinkage(variances, own)


def shrinkage(variances: list[np.ndarray], own: np.ndarray) -> np.ndarray:
    """What the added deviations of two kinds of cluster are multiplied by, (K,); 1 where nothing varies."""
    wanted = np.maximum(sum(variances) - own, np.maximum(*variances))
    together = sum(variances)
    return np.sqrt(np.where(together > 0, wanted / np.where(together > 0, together, 1.0), 1.0))


def means_over(
    code: np.ndarray, filled: np.ndarray, number: np.ndarray, samples: int, generator: np.random.Generator
) -> np.ndarray:
    """Means (samples, K) of values (N, K), 0 where `number` (N, K) is 0, with clusters (N,) drawn with replacement."""
    size = code.max() + 1
    counts = generator.multinomial(size, np.full(size, 1 / size), size=samples).astype(np.float64)  # (samples, size)
    sums, numbers = (np.stack([np.bincount(code, column, size) for column in part.T]) for part in (filled, number))
    with np.errstate(invalid="ignore"):
        return (counts @ sums.T) / (counts @ numbers.T)


def interval(
    values: np.ndarray, undefined: int, clusters: dict[str, int], resampled: np.ndarray, level: float
) -> Interval:
    """The bounds of the mean of defined values (trials,), from its resampled means."""
    fewest = min(clusters, key=clusters.__getitem__)
    resampled = resampled[np.isfinite(resampled)]
    if not len(values):
        return Interval(None, None, None, clusters, 0, 0, undefined, "no trial has a defined value")
    mean = float(values.mean())
    if clusters[fewest] < 2:
        reason = f"all trials are of one of the {fewest}: an interval over {fewest} needs at least 2"
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
    """The bounds of a measure from its resamples (S,), NaN where it is not defined; `kind` is what was drawn."""
    drawn = drawn[np.isfinite(drawn)]
    fewest = min(clusters, key=clusters.__getitem__)
    if not np.isfinite(value):
        lacking = [side for side, count in clusters.items() if not count]
        reason = f"there are no {' and no '.join(lacking)}" if lacking else "it would divide by nothing"
        return Interval(None, None, None, clusters, 0, rows, left_out, reason)
    if clusters[fewest] < 2:
        alone = f"there is one {kind}" if fewest == f"{kind}s" else f"all {fewest} are of one {kind}"
        reason = f"{alone}: an interval over {kind}s needs at least 2"
        return Interval(value, None, None, clusters, 0, rows, left_out, reason)
    if not len(drawn) or np.ptp(drawn) < TOLERANCE:
        reason = f"all resamples give {value:.4g}, which does not tell how far off it may be"
        return Interval(value, None, None, clusters, len(drawn), rows, left_out, reason)
    tail = tail_of(level, clusters[fewest])
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high), clusters, len(drawn), rows, left_out)


def tail_of(level: float, clusters: int) -> float:
    """The share of resampled means beyond each bound: less than (1 - level) / 2 by what few clusters hide."""
    return float(ndtr(stdtrit(clusters - 1, (1 - level) / 2) * np.sqrt(clusters / (clusters - 1))))
