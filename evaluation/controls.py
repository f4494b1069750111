"""Is it the music? Predictions from mismatched songs tell; and how well could anyone do: the ceiling.

N trials, T frames (padded), S songs. The statistic is the correlation within a trial after both sides lost their
straight line over the frames that count. A prediction without any shape correlates with nothing: 0.

A model that knows only the time since onset scores as well with another song's sound as with the right one, and slow
curves correlate by themselves. So what counts is the score with the right sound against scores with wrong ones. Wrong
songs are of about the same length, and right and wrong are compared over the same frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.trials import detrend

BLOCK = 8  # songs of neighbouring lengths, among which sounds are exchanged
HALVES = 100  # random divisions of the listeners
HISTOGRAM_BINS = 30  # of the scores of mismatches
FEWEST_LISTENERS = 4  # of a song whose listeners are divided in halves


@dataclass(frozen=True)
class Histogram:
    """Counts of values between edges."""

    edges: list[float]  # one more than counts
    counts: list[int]


@dataclass(frozen=True)
class Null:
    """The score with the right sounds, and the scores of permutations, in which some songs keep their own sound."""

    score: float
    score_of_wrong: float | None  # mean over all wrong songs of about the same length
    low: float  # 95 % of the permutations lie between low and high
    high: float
    p: float  # one-sided, (1 + permutations as good or better) / (1 + permutations)
    permutations: int
    histogram: Histogram  # of the permutations


def detrended_correlation(predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pearson's r (N,) after detrending; NaN where the target has no shape, 0 where the prediction has none."""
    predictions, targets = detrend(predictions, mask), detrend(targets, mask)
    predictions, targets = np.where(mask, predictions, 0), np.where(mask, targets, 0)
    energy = (predictions**2).sum(axis=1), (targets**2).sum(axis=1)
    noise = np.finfo(np.float32).eps ** 2 * np.maximum(mask.sum(axis=1), 1)
    product = (predictions * targets).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.where(energy[0] > noise, product / np.sqrt(energy[0] * energy[1]), 0.0)
    return np.where(energy[1] > noise, r, np.nan)


def mismatched_audio(
    of_songs: Sequence[np.ndarray],
    songs: np.ndarray,
    targets: np.ndarray,
    mask: np.ndarray,
    permutations: int = 999,
    seed: int = 0,
) -> Null | None:
    """Permute the sounds among songs of about the same length, and score each permutation; None without a score.

    Args:
        of_songs: what the model predicts from each of the S songs, (T of the song,).
        songs: the song of each trial, (N,) positions in `of_songs`.
        targets: (N, T) what the listener's skin did. mask: (N, T) frames that count.
    """
    right, wrong, blocks, counts = scores_of_pairs(of_songs, songs, targets, mask)
    if not counts.any():
        return None
    generator = np.random.default_rng(seed)
    chosen = np.empty((permutations, len(of_songs)), dtype=int)  # whose sound each song gets
    for block in blocks:
        chosen[:, block] = generator.permuted(np.tile(block, (permutations, 1)), axis=1)
    every = np.arange(len(of_songs))
    score_wrong = wrong[every, chosen].sum(axis=1) / counts.sum()
    score_right = right[every, chosen].sum(axis=1) / counts.sum()  # over the same frames as the wrong one
    as_good = int((score_wrong >= score_right).sum())
    score = float(right[every, every].sum() / counts.sum())
    partners = np.zeros_like(wrong, dtype=bool)  # the wrong songs of each
    for block in blocks:
        partners[np.ix_(block, block)] = ~np.eye(len(block), dtype=bool)
    compared = (counts[:, None] * partners).sum()
    of_wrong = float(wrong[partners].sum() / compared) if compared else None
    low, high = np.quantile(score_wrong, [0.025, 0.975])
    bin_counts, edges = np.histogram(score_wrong, HISTOGRAM_BINS)
    histogram = Histogram(edges.tolist(), bin_counts.tolist())
    return Null(score, of_wrong, float(low), float(high), (1 + as_good) / (1 + permutations), permutations, histogram)


def scores_of_pairs(
    of_songs: Sequence[np.ndarray], songs: np.ndarray, targets: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """Scores of every song with every sound of its block, summed over its trials, and how many trials those are.

    Returns the right sound's scores (S, S), over the frames that both sounds have, the wrong sound's (S, S), the
    blocks, and the number of scored trials (S,). A song without a scored trial adds nothing to any sum.
    """
    count, frames = len(of_songs), targets.shape[1]
    predicted = np.full((count, frames), np.nan)
    for song, prediction in enumerate(of_songs):
        predicted[song, : min(frames, len(prediction))] = prediction[:frames]
    by_length = np.argsort([len(prediction) for prediction in of_songs], kind="stable")
    blocks = np.array_split(by_length, max(1, count // BLOCK))
    right, wrong = np.zeros((count, count)), np.zeros((count, count))
    counts = np.zeros(count)
    for shift in range(max(map(len, blocks))):
        partner = np.arange(count)
        for block in blocks:
            partner[block] = np.roll(block, -shift)
        own, other = predicted[songs], predicted[partner[songs]]
        shared = mask & np.isfinite(own) & np.isfinite(other)
        for sums, prediction in ((right, own), (wrong, other)):
            score = detrended_correlation(np.where(shared, prediction, 0), np.where(shared, targets, 0), shared)
            scored = np.isfinite(score)
            sums[np.arange(count), partner] = np.bincount(songs[scored], score[scored], count)
        if shift == 0:
            counts = np.bincount(songs[scored], minlength=count)
    return right, wrong, blocks, counts


@dataclass(frozen=True)
class Agreement:
    """How far the listeners of a song agree, hence how well a model of the song could do at best."""

    leave_one_out: np.ndarray  # (N,) each trial with the mean of the song's other listeners; NaN for a lone listener
    split_half: float | None  # correlation of two halves' means, stepped up to all listeners by Spearman and Brown
    split_half_songs: int  # songs with enough listeners to divide


def agreement(songs: np.ndarray, targets: np.ndarray, mask: np.ndarray, seed: int = 0) -> Agreement:
    """Compare the listeners of a song, after detrending, by targets (N, T) that are scaled by listener."""
    detrended = np.where(mask, detrend(targets, mask), 0)
    frames = targets.shape[1]
    _, songs = np.unique(songs, return_inverse=True)
    count = int(songs.max()) + 1
    total, number = np.zeros((count, frames)), np.zeros((count, frames))
    np.add.at(total, songs, detrended)
    np.add.at(number, songs, mask)
    others, listeners = total[songs] - detrended, number[songs] - mask
    shared = mask & (listeners > 0)
    mean = np.where(shared, others / np.maximum(listeners, 1), 0)
    alone = detrended_correlation(mean, targets, shared)
    alone[~shared.any(axis=1)] = np.nan
    return Agreement(alone, *split_half(songs, detrended, mask, seed))


def split_half(songs: np.ndarray, detrended: np.ndarray, mask: np.ndarray, seed: int) -> tuple[float | None, int]:
    """Spearman-Brown reliability of the mean curve of a song, and the number of songs behind it."""
    listeners = np.bincount(songs)
    enough = np.flatnonzero(listeners >= FEWEST_LISTENERS)
    if not len(enough):
        return None, 0
    kept = np.isin(songs, enough)
    songs, detrended, mask = np.searchsorted(enough, songs[kept]), detrended[kept], mask[kept]
    order = np.argsort(songs, kind="stable")
    songs, detrended, mask = songs[order], detrended[order], mask[order]
    starts = np.searchsorted(songs, np.arange(len(enough)))
    generator = np.random.default_rng(seed)
    halves = []
    for _ in range(HALVES):
        # Rank of a random number within the song: even ranks are one half, odd ones the other.
        place = np.lexsort((generator.random(len(songs)), songs))
        rank = np.empty(len(songs), dtype=int)
        rank[place] = np.arange(len(songs)) - starts[songs[place]]
        half = (rank % 2 == 0)[:, None]
        sums = [np.add.reduceat(np.where(side, detrended, 0), starts) for side in (half, ~half)]
        numbers = [np.add.reduceat(np.where(side, mask, False).astype(float), starts) for side in (half, ~half)]
        shared = (numbers[0] > 0) & (numbers[1] > 0)
        first, second = (
            np.where(shared, total / np.maximum(number, 1), 0) for total, number in zip(sums, numbers, strict=True)
        )
        halves.append(detrended_correlation(first, second, shared))
    defined = np.array(halves)[np.isfinite(halves)]
    if not len(defined):
        return None, 0
    r = float(defined.mean())
    return 2 * r / (1 + r), len(enough)
