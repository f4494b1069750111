"""Two controls: does the model use the sound (mismatched songs), and how good could any model be (the ceiling)?

A model that knows only the time since onset scores as well with another song's sound as with the right one, and slow
curves correlate by chance. So the score with the right sound is compared with scores with wrong sounds. Wrong songs
have about the same length, and right and wrong are compared over the same frames.

The statistic is the correlation within a trial, after a straight line is subtracted from target and prediction over
the frames that count. A constant prediction has a correlation of 0.
"""

# N trials, T frames (padded), S songs

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.trials import detrend

BLOCK = 8  # songs of similar length that exchange their sounds
HALVES = 100  # random divisions of the listeners in two halves
HISTOGRAM_BINS = 30
FEWEST_LISTENERS = 4  # per song, so that each half has at least 2


@dataclass(frozen=True)
class Histogram:
    edges: list[float]  # one more than counts
    counts: list[int]


@dataclass(frozen=True)
class Null:
    """The score with the right sounds, and the scores of permutations, in which some songs may keep their sound."""

    score: float
    score_of_wrong: float | None  # mean over all wrong songs of similar length
    low: float  # 95 % of the permutations are between low and high
    high: float
    p: float  # one-sided, (1 + permutations as good or better) / (1 + permutations)
    permutations: int
    histogram: Histogram  # of the permutations


def detrended_correlation(predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return Pearson's r (N,) after detrending: NaN if the target is a straight line, 0 if the prediction is one."""
    predictions, targets = detrend(predictions, mask), detrend(targets, mask)
    predictions, targets = np.where(mask, predictions, 0), np.where(mask, targets, 0)
    energy = (predictions**2).sum(axis=1), (targets**2).sum(axis=1)
    # Below the rounding error of float32 model outputs, a signal counts as a straight line.
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
    """Permute the sounds among songs of similar length, and score each permutation.

    Args:
        of_songs: the model's prediction for each of the S songs, (T of the song,).
        songs: the song of each trial, (N,) positions in `of_songs`.
        targets: (N, T), the listener's skin conductance.
        mask: (N, T), the frames that count.

    Returns:
        None if no trial can be scored.
    """
    right, wrong, blocks, counts = scores_of_pairs(of_songs, songs, targets, mask)
    if not counts.any():
        return None
    generator = np.random.default_rng(seed)
    chosen = np.empty((permutations, len(of_songs)), dtype=int)  # the song whose sound each song gets
    for block in blocks:
        chosen[:, block] = generator.permuted(np.tile(block, (permutations, 1)), axis=1)
    every = np.arange(len(of_songs))
    score_wrong = wrong[every, chosen].sum(axis=1) / counts.sum()
    score_right = right[every, chosen].sum(axis=1) / counts.sum()  # over the same frames as score_wrong
    as_good = int((score_wrong >= score_right).sum())
    score = float(right[every, every].sum() / counts.sum())
    partners = np.zeros_like(wrong, dtype=bool)  # (S, S): the wrong songs of each song
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
    """Score every song with every sound of its block, summed over the trials of the song.

    Returns:
        The scores of the right sound (S, S) and of the wrong sound (S, S), both over the frames that the two sounds
        share, the blocks of songs, and the number of scored trials (S,).
    """
    count, frames = len(of_songs), targets.shape[1]
    predicted = np.full((count, frames), np.nan)
    for song, prediction in enumerate(of_songs):
        predicted[song, : min(frames, len(prediction))] = prediction[:frames]
    by_length = np.argsort([len(prediction) for prediction in of_songs], kind="stable")
    blocks = np.array_split(by_length, max(1, count // BLOCK))
    right, wrong = np.zeros((count, count)), np.zeros((count, count))
    counts = np.zeros(count)
    # Rotating each block by `shift` pairs every song with one other; all shifts together give all pairs of a block.
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
        if shift == 0:  # own sound: all frames are shared, so this is the number of trials that have a score
            counts = np.bincount(songs[scored], minlength=count)
    return right, wrong, blocks, counts


@dataclass(frozen=True)
class Agreement:
    """How far the listeners of a song agree, which limits how good a model of the song can be."""

    # (N,): correlation of each trial with the mean of the song's other listeners; NaN for an only listener
    leave_one_out: np.ndarray
    # Correlation of the means of two halves, extrapolated to all listeners by the Spearman-Brown formula
    split_half: float | None
    split_half_songs: int  # songs with at least FEWEST_LISTENERS listeners


def agreement(songs: np.ndarray, targets: np.ndarray, mask: np.ndarray, seed: int = 0) -> Agreement:
    """Compare the listeners of each song, after detrending; targets (N, T) must be scaled per listener."""
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
    """Return the Spearman-Brown reliability of a song's mean curve, and the number of songs that it is based on."""
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
        # Rank random numbers within each song: even ranks are one half, odd ranks the other.
        by_song = np.lexsort((generator.random(len(songs)), songs))
        rank = np.empty(len(songs), dtype=int)
        rank[by_song] = np.arange(len(songs)) - starts[songs[by_song]]
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
