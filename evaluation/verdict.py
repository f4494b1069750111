"""When a run may claim something: the rule of an effect, and exact tests where a bootstrap has no bounds.

Resamples of a perfect detector all agree, so they say nothing about its uncertainty. Two tests count the arrangements
that give an average precision as high as the one that was seen. They go through all arrangements where these are few,
so that p is exact, and else through random ones. Both arrange whole groups, as intervals resample them: one clip of
each group is ranked against chance, and the ranks of a group are exchanged together between two detectors.
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
        missing.append(f"{songs} {'song is' if songs == 1 else 'songs are'} fewer than {FEWEST_SONGS}")
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


def p_against_chance(scores: np.ndarray, targets: np.ndarray, groups: Sequence[str], seed: int = 0) -> float:
    """The share of ways to place the targets at which the scores rank as well, of one clip of each group; one-sided.

    One clip each keeps the test valid where groups with the target are larger, or smaller, than those without: means
    or maxima of groups of different size differ by chance. A detector that ranks all clips right ranks these right.

    Args:
        scores, targets, groups: (N,).
    """
    chosen = one_per_group(check_scores(scores, targets)[1], groups, seed)
    scores, targets = check_scores(scores[chosen], targets[chosen])
    ranking, positives = Ranking.of(scores, targets), int(targets.sum())
    seen = average_precision(scores, targets)
    found = [
        area_under_precision(hits, ranking.ends + 1 - hits)
        for placed in placements(len(targets), positives, seed)
        for hits in [np.cumsum(placed, axis=1)[:, ranking.ends].astype(np.float64)]
    ]
    return share_as_high(np.concatenate(found), seen, comb(len(targets), positives) <= ARRANGEMENTS)


def one_per_group(targets: np.ndarray, groups: Sequence[str], seed: int) -> np.ndarray:
    """Positions (G,) of one clip of each group, chosen without a look at scores.

    A group with clips of both kinds gives one of the kind that fewer groups have so far: balance makes p finest.
    """
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
    """The share of ways to exchange the ranks of two detectors, group by group, at which the first is as far ahead.

    Args:
        scores, rival: (N,) of both; they may be in different units, since only ranks are exchanged.
        targets, groups: (N,).
    """
    first, second = (rankdata(check_scores(each, targets)[0]) for each in (scores, rival))
    code = codes_of(groups)

    def lead(exchanged: np.ndarray) -> float:
        """Of groups (G,) bool."""
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
    """The number of each clip's group, (N,)."""
    return np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]


def placements(clips: int, positives: int, seed: int) -> Iterator[np.ndarray]:
    """Ways to place the positives among the clips, (A, N) bool, some at a time: all of them, or random ones."""
    choices = comb(clips, positives)
    if choices <= ARRANGEMENTS:
        chosen = np.array(list(itertools.combinations(range(clips), positives)), int).reshape(choices, positives)
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
    as_high = int((~(found < seen - TOLERANCE)).sum())  # undefined shows nothing, so it counts as high
    return as_high / len(found) if every else (1 + as_high) / (1 + len(found))
