"""Permutation tests that replace bounds: exact if arrangements are few, and valid without an effect."""

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.detection import average_precision
from evaluation.intervals import interval_of
from evaluation.verdict import ARRANGEMENTS, is_above_zero, p_against, p_against_chance

SMALL = st.integers(3, 5).flatmap(
    lambda clips: st.tuples(
        st.lists(st.integers(0, 3), min_size=clips, max_size=clips),
        st.lists(st.integers(0, 3), min_size=clips, max_size=clips),
        st.integers(1, clips - 1),
    )
)


def one_group_each(clips: np.ndarray) -> list[str]:
    return [f"clip{number}" for number in range(len(clips))]


@settings(max_examples=40)
@given(SMALL)
def test_few_arrangements_are_all_counted(drawn: tuple[list[int], list[int], int]) -> None:
    scores, rival, positives = np.array(drawn[0], float), np.array(drawn[1], float), drawn[2]
    targets = np.arange(len(scores)) < positives
    observed = average_precision(scores, targets)
    arrangements = [
        np.isin(np.arange(len(scores)), each) for each in itertools.combinations(range(len(scores)), positives)
    ]
    as_high = sum(average_precision(scores, arranged) >= observed - 1e-9 for arranged in arrangements)
    groups = one_group_each(targets)
    assert p_against_chance(scores, targets, groups) == pytest.approx(as_high / len(arrangements))
    assert p_against(scores, rival, targets, groups) >= 2.0 ** -len(scores)
    assert p_against(scores, scores, targets, groups) == 1


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (2, 3), (5, 5), (1, 99)])
@pytest.mark.parametrize("clips_each", [1, 10])
def test_the_p_of_a_perfect_ranking_is_one_in_all_choices_of_groups(
    positives: int, negatives: int, clips_each: int
) -> None:
    groups = [f"group{number}" for number in range(positives + negatives)] * clips_each
    targets = np.tile(np.arange(positives + negatives) < positives, clips_each)
    choices = comb(positives + negatives, positives)
    assert p_against_chance(targets.astype(float), targets, groups) == pytest.approx(1 / choices)
    assert p_against_chance(np.zeros(len(targets)), targets, groups) == 1
    rising = np.tile(np.arange(positives + negatives), clips_each)  # clips with the target have the lowest scores
    assert p_against_chance(rising, targets, groups) == 1


def test_many_arrangements_are_drawn_at_random() -> None:
    targets = np.arange(60) < 12
    perfect, groups = targets.astype(float), one_group_each(targets)
    assert p_against_chance(perfect, targets, groups) == 1 / ARRANGEMENTS
    assert p_against(perfect, -perfect, targets, groups) == 1 / ARRANGEMENTS
    assert p_against_chance(perfect, targets, groups, seed=1) == 1 / ARRANGEMENTS
    assert p_against(-perfect, perfect, targets, groups) == 1


def recordings(
    seed: int, lengths: dict[bool, int], alike: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return random scores of two detectors, targets and groups: two recordings with the target, three without.

    Args:
        alike: give all clips of a recording the same score.
    """
    generator = np.random.default_rng(seed)
    of_group = np.arange(5) < 2
    code = np.repeat(np.arange(5), [lengths[bool(target)] for target in of_group])
    model, rival = (
        generator.normal(size=5)[code] if alike else generator.normal(size=len(code)) for _ in ("model", "rival")
    )
    return model, rival, of_group[code], [f"group{number}" for number in code]


@pytest.mark.parametrize("lengths", [{True: 10, False: 10}, {True: 1, False: 10}, {True: 10, False: 1}], ids=str)
@pytest.mark.parametrize("alike", [True, False])
def test_random_detectors_have_a_low_p_at_most_as_often_as_the_level(lengths: dict, alike: bool) -> None:
    # The smallest possible p are 1/10 (choices of two recordings of five) and 1/32 (exchanges of five groups).
    p_chance, p_rival = [], []
    for seed in range(300):
        model, rival, targets, groups = recordings(seed, lengths, alike)
        p_chance.append(p_against_chance(model, targets, groups))
        if seed % 4 == 0:
            p_rival.append(p_against(model, rival, targets, groups))
    for p in (np.array(p_chance), np.array(p_rival)):
        for level in (0.025, 0.05, 0.1, 0.2, 0.5):
            assert np.mean(p <= level) <= level + 3 * np.sqrt(level * (1 - level) / len(p))


def test_a_clear_effect_in_enough_groups_is_detected() -> None:
    generator = np.random.default_rng(0)
    code = np.repeat(np.arange(16), 10)
    targets, groups = code < 8, [f"group{number}" for number in code]
    model = 3.0 * targets + 0.3 * generator.normal(size=16)[code] + 0.3 * generator.normal(size=160)
    rival = generator.normal(size=16)[code]
    assert p_against_chance(model, targets, groups) == 1 / ARRANGEMENTS
    assert p_against(model, rival, targets, groups) < 0.025


@pytest.mark.parametrize("targets", ["+-+-+-+-", "+++-+-+-", "+++++-+-", "---+---+"])
def test_groups_with_positives_and_negatives_count_once_and_keep_the_balance(targets: str) -> None:
    # Four groups of two clips: two groups count as positive and two as negative, so p is 1/6 for a perfect ranking.
    positive = np.array([sign == "+" for sign in targets])
    assert p_against_chance(positive.astype(float), positive, list("aabbccdd")) == pytest.approx(1 / 6)


def test_a_single_group_shows_no_effect() -> None:
    targets = np.arange(20) < 10
    assert p_against_chance(targets.astype(float), targets, ["one"] * 20) == 1
    assert p_against(targets.astype(float), -targets.astype(float), targets, ["one"] * 20) == 0.5


def test_units_of_the_rival_do_not_matter() -> None:
    generator, targets = np.random.default_rng(0), np.arange(40) < 10
    model, rival = targets + generator.normal(size=40), generator.normal(size=40)
    groups = one_group_each(targets)
    assert p_against(model, rival, targets, groups) == p_against(model, 20 * rival - 60, targets, groups)


@pytest.mark.parametrize(("songs", "shown"), [(5, False), (6, True), (60, True)])
def test_an_equal_difference_in_each_cluster_is_significant_from_six_clusters(songs: int, shown: bool) -> None:
    # 0.5 ** 6 is below 0.025, 0.5 ** 5 is not.
    clusters, resampled = {"songs": songs, "listeners": 100}, np.full(200, 0.3)
    assert is_above_zero(interval_of(0.3, resampled, clusters, 100, kind="song")) is shown
    assert not is_above_zero(interval_of(-0.3, -resampled, clusters, 100, kind="song"))
    assert not is_above_zero(interval_of(0.0, 0 * resampled, clusters, 100, kind="song"))
    assert not is_above_zero(interval_of(float("nan"), resampled, clusters, 100, kind="song"))
    varied = 0.3 + np.linspace(-0.1, 0.1, 200)
    assert is_above_zero(interval_of(0.3, varied, {"songs": 60}, 100, kind="song"))
    assert not is_above_zero(interval_of(0.05, varied - 0.25, {"songs": 60}, 100, kind="song"))
