"""Decide what a run may claim: the rule for an effect, and exact tests for cases where the bootstrap has no bounds.

All bootstrap resamples of a perfect detector give the same score, so they say nothing about its uncertainty. Two
permutation tests therefore count the arrangements that score at least as high as the observed one. If there are few
arrangements, all are tried and p is exact; otherwise random ones are drawn. Both tests keep groups whole, as the
intervals do: the test against chance ranks one clip per group, and the test against another detector exchanges the
ranks of all clips of a group together.
"""

# N clips, G groups, A arrangements

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from evaluation.detection import Ranking, area_under_precision, average_precision, check_scores
from evaluation.intervals import LEVEL, TOLERANCE, Interval

SIGNIFICANCE = 0.05  # of the one-sided permutation test
FEWEST_PERMUTATIONS = 199
FEWEST_SONGS = 6  # fewer are all on one side of the truth by chance too often for any interval
SURE = (1 - LEVEL) / 2  # largest p of a one-sided test that replaces a lower bound, so that it is as strict
ARRANGEMENTS = 1000  # at most; of more, this many are drawn at random
AT_ONCE = 1_000_000  # numbers in memory at once
RULE = (
    "effect: the lower 95 % bound of (model - best baseline without sound), correlation within trials after "
    f"detrending, is above 0, and the one-sided permutation p against mismatched audio is below {SIGNIFICANCE} with "
    f"{FEWEST_PERMUTATIONS} permutations or more, on {FEWEST_SONGS} songs or more; otherwise: no effect"
)


@dataclass(frozen=True)
class Verdict:
    """Whether there is an effect, and if not, which conditions are missing."""

    verdict: Literal["effect", "no effect"]
    missing: list[str]
    rule: str = RULE


def decide(gain_low: float | None, p: float | None, permutations: int, songs: int) -> Verdict:
    """Apply RULE.

    Args:
        gain_low: lower bound of the gain over the best baseline without sound; None if it could not be computed.
        p: of the permutation test; None if it could not be computed.
    """
    missing = []
    # Conditions are negated, so that NaN is never an effect.
    if gain_low is None:
        missing.append("the gain over the best baseline without sound has no interval (too few songs)")
    elif not gain_low > 0:
        missing.append(f"the gain over the best baseline without sound may be 0: its lower bound is {gain_low:.3f}")
    if p is None:
        missing.append("there is only one song, so no sound to mismatch")
    elif not p < SIGNIFICANCE:
        missing.append(f"mismatched sound too often scores as well: p = {p:.3f}")
    if permutations < FEWEST_PERMUTATIONS:
        missing.append(f"{permutations} permutations are fewer than {FEWEST_PERMUTATIONS}")
    if songs < FEWEST_SONGS:
        missing.append(f"{songs} {'song is' if songs == 1 else 'songs are'} fewer than {FEWEST_SONGS}")
    return Verdict("no effect" if missing else "effect", missing)


def is_above_zero(difference: Interval) -> bool:
    """Return whether a difference is shown to be above 0: by its lower bound or, without one, an exact sign test."""
    if difference.low is not None:
        return difference.low > 0
    # All resamples agree if every cluster gives the same difference. Without a true difference, each cluster
    # is equally likely to have the opposite sign, so all are positive by chance with probability 0.5 ** clusters.
    agree = difference.mean is not None and difference.samples > 0
    return agree and difference.mean > TOLERANCE and 0.5 ** min(difference.clusters.values()) < SURE


def p_against_chance(scores: np.ndarray, targets: np.ndarray, groups: Sequence[str], seed: int = 0) -> float:
    """Return the one-sided p of the average precision against chance, on one clip per group.

    p is the share of all placements of the targets that the scores rank at least as well as the true one.

    Args:
        scores, targets, groups: (N,).
    """
    # One clip per group keeps the test valid if groups with the target are larger or smaller than those without: the
    # means or maxima of groups of different size differ by chance.
    chosen = one_per_group(check_scores(scores, targets)[1], groups, seed)
    scores, targets = check_scores(scores[chosen], targets[chosen])
    ranking, positives = Ranking.of(scores, targets), int(targets.sum())
    observed = average_precision(scores, targets)
    arranged = [
        area_under_precision(hits, ranking.ends + 1 - hits)
        for placed in placements(len(targets), positives, seed)
        for hits in [np.cumsum(placed, axis=1)[:, ranking.ends].astype(np.float64)]
    ]
    return share_as_high(np.concatenate(arranged), observed, comb(len(targets), positives) <= ARRANGEMENTS)


def one_per_group(targets: np.ndarray, groups: Sequence[str], seed: int) -> np.ndarray:
    """Return the indices (G,) of one clip per group, chosen without looking at scores."""
    # A group with clips of both kinds contributes the rarer kind: p has the most steps if both are equally frequent.
    code = codes_of(groups)
    with_target, without = (np.bincount(code[kind], minlength=code.max() + 1) > 0 for kind in (targets, ~targets))
    both = np.flatnonzero(with_target & without)
    positive = ~without
    positive[both[: max(len(positive) // 2 - int(positive.sum()), 0)]] = True
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(targets == positive[code]))
    return np.sort(drawn[np.unique(code[drawn], return_index=True)[1]])


def p_against(
    scores: np.ndarray, rival: np.ndarray, targets: np.ndarray, groups: Sequence[str], seed: int = 0
) -> float:
    """Return the one-sided p of the lead of one detector over another, in average precision.

    p is the share of all ways to exchange the ranks of the two, group by group, that give at least the observed lead.

    Args:
        scores, rival: (N,), of the two detectors; units may differ, because only ranks are exchanged.
        targets, groups: (N,).
    """
    first, second = (rankdata(check_scores(each, targets)[0]) for each in (scores, rival))
    code = codes_of(groups)

    def lead(exchanged: np.ndarray) -> float:
        own, other = np.where(exchanged[code], [second, first], [first, second])
        return average_precision(own, targets) - average_precision(other, targets)

    size = int(code.max()) + 1
    every = 2**size <= ARRANGEMENTS
    if every:
        exchanges: Iterator[np.ndarray] = (np.array(each, bool) for each in itertools.product((0, 1), repeat=size))
    else:
        generator = np.random.default_rng(seed)
        exchanges = (generator.random(size) < 0.5 for _ in range(ARRANGEMENTS - 1))
    return share_as_high(np.array([lead(each) for each in exchanges]), lead(np.zeros(size, bool)), every)


def codes_of(groups: Sequence[str]) -> np.ndarray:
    """Return the number (N,) of each clip's group."""
    return np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]


def placements(clips: int, positives: int, seed: int) -> Iterator[np.ndarray]:
    """Yield ways to place the positives among the clips, in blocks (A, N) bool: all of them, or random ones."""
    choices = comb(clips, positives)
    if choices <= ARRANGEMENTS:
        chosen = np.array(list(itertools.combinations(range(clips), positives)), int).reshape(choices, positives)
        placed = np.zeros((len(chosen), clips), bool)
        np.put_along_axis(placed, chosen, True, axis=1)
        yield placed
        return
    generator, rows = np.random.default_rng(seed), max(AT_ONCE // clips, 1)
    for start in range(0, ARRANGEMENTS - 1, rows):  # one less, because the observed arrangement counts too
        first = np.tile(np.arange(clips) < positives, (min(rows, ARRANGEMENTS - 1 - start), 1))
        yield generator.permuted(first, axis=1)


def share_as_high(values: np.ndarray, observed: float, every: bool) -> float:
    """Return the share of values (A,) that are at least as high as the observed one.

    Args:
        every: whether `values` are of all arrangements. Random ones do not include the observed one, so it is added.
    """
    as_high = int((~(values < observed - TOLERANCE)).sum())  # NaN counts as high, which is the cautious choice
    return as_high / len(values) if every else (1 + as_high) / (1 + len(values))
