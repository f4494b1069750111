"""When a run may claim something: the rule of an effect, and exact tests where a bootstrap has no bounds.

Resamples of a perfect detector all agree, which tells nothing of how sure it is. Two tests count the arrangements that
give an average precision as high as the one that was seen. They go through all arrangements where these are few, so
that p is exact, and else through random ones.
"""

# N clips, P with the target, A arrangements

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from evaluation.detection import Ranking, area_under_precision, average_precision, check_scores
from evaluation.intervals import LEVEL, TOLERANCE, Interval

SIGNIFICANCE = 0.05  # of the permutation test, one-sided
FEWEST_PERMUTATIONS = 199
FEWEST_SONGS = 6  # fewer lie on one side of the truth by chance too often for any interval over them
SURE = (1 - LEVEL) / 2  # of a one-sided test in place of a lower bound: as strict as the bound
ARRANGEMENTS = 1000  # more are drawn at random, this many
AT_ONCE = 1_000_000  # numbers of arrangements that are held at once
RULE = (
    "effect: the lower 95 % bound of (model - best baseline that hears no music), correlation within trials after "
    f"detrending, is above 0, and the one-sided permutation p against mismatched audio is below {SIGNIFICANCE} with "
    f"{FEWEST_PERMUTATIONS} permutations or more, on {FEWEST_SONGS} songs or more; else: no effect"
)


@dataclass(frozen=True)
class Verdict:
    """Whether there is an effect, and what was missing for one."""

    verdict: Literal["effect", "no effect"]
    missing: list[str]
    rule: str = RULE


def decide(gain_low: float | None, p: float | None, permutations: int, songs: int) -> Verdict:
    """Apply the rule to the lower bound of the gain over the best baseline without sound, and the permutation test.

    None stands for a figure that could not be computed, which is never an effect.
    """
    missing = []
    if gain_low is None:
        missing.append("the gain over what hears no music has no interval (too few songs)")
    elif not gain_low > 0:
        missing.append(f"the gain over what hears no music may be nothing: its lower bound is {gain_low:.3f}")
    if p is None:
        missing.append("there is no other song to mismatch the sound with")
    elif not p < SIGNIFICANCE:
        missing.append(f"mismatched sound scores as well too often: p = {p:.3f}")
    if permutations < FEWEST_PERMUTATIONS:
        missing.append(f"{permutations} permutations are fewer than {FEWEST_PERMUTATIONS}")
    if songs < FEWEST_SONGS:
        missing.append(f"{songs} songs are fewer than {FEWEST_SONGS}")
    return Verdict("no effect" if missing else "effect", missing)


def is_above_zero(difference: Interval) -> bool:
    """Whether a difference is shown to be above 0: by its lower bound, or by an exact test where all resamples agree.

    Resamples agree where every cluster gives the same difference. If there were none, each cluster could as well give
    its opposite, and all of them would agree on this side in one case of 2 ** clusters.
    """
    if difference.low is not None:
        return difference.low > 0
    agree = difference.mean is not None and difference.samples > 0
    return agree and difference.mean > TOLERANCE and 0.5 ** min(difference.clusters.values()) < SURE


def p_against_chance(scores: np.ndarray, targets: np.ndarray, seed: int = 0) -> float:
    """The share of ways to place the targets (N,) at which the scores (N,) rank as well, one-sided."""
    scores, targets = check_scores(scores, targets)
    ranking, positives = Ranking.of(scores, targets), int(targets.sum())
    seen = average_precision(scores, targets)
    found = [
        area_under_precision(hits, ranking.ends + 1 - hits)
        for placed in placements(len(targets), positives, seed)
        for hits in [np.cumsum(placed, axis=1)[:, ranking.ends].astype(np.float64)]
    ]
    return share_as_high(np.concatenate(found), seen, comb(len(targets), positives) <= ARRANGEMENTS)


def p_against(scores: np.ndarray, rival: np.ndarray, targets: np.ndarray, seed: int = 0) -> float:
    """The share of ways to exchange the ranks of two detectors, clip by clip, at which the first is as far ahead.

    Args:
        scores, rival: (N,) of both; they may be in different units, since only ranks are exchanged.
    """
    first, second = (rankdata(check_scores(each, targets)[0]) for each in (scores, rival))

    def lead(exchanged: np.ndarray) -> float:
        own, other = np.where(exchanged, second, first), np.where(exchanged, first, second)
        return average_precision(own, targets) - average_precision(other, targets)

    clips = len(first)
    every = 2**clips <= ARRANGEMENTS
    if every:
        exchanges: Iterator[np.ndarray] = (np.array(each, bool) for each in itertools.product((0, 1), repeat=clips))
    else:
        generator = np.random.default_rng(seed)
        exchanges = (generator.random(clips) < 0.5 for _ in range(ARRANGEMENTS - 1))
    return share_as_high(np.array([lead(each) for each in exchanges]), lead(np.zeros(clips, bool)), every)


def placements(clips: int, positives: int, seed: int) -> Iterator[np.ndarray]:
    """Ways to place the positives among the clips, (A, N) bool, some at a time: all of them, or random ones."""
    if comb(clips, positives) <= ARRANGEMENTS:
        chosen = np.array(list(itertools.combinations(range(clips), positives)), int).reshape(-1, positives)
        placed = np.zeros((len(chosen), clips), bool)
        np.put_along_axis(placed, chosen, True, axis=1)
        yield placed
        return
    generator, rows = np.random.default_rng(seed), max(AT_ONCE // clips, 1)
    for start in range(0, ARRANGEMENTS - 1, rows):
        first = np.tile(np.arange(clips) < positives, (min(rows, ARRANGEMENTS - 1 - start), 1))
        yield generator.permuted(first, axis=1)


def share_as_high(found: np.ndarray, seen: float, every: bool) -> float:
    """The share of values (A,) that reach the one that was seen; only those of every arrangement hold it already."""
    as_high = int((found >= seen - TOLERANCE).sum())
    return as_high / len(found) if every else (1 + as_high) / (1 + len(found))
