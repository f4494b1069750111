"""Tests in place of bounds: exact where arrangements are few, right by definition, and honest about chance."""

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


def alone_in_group(clips: np.ndarray) -> list[str]:
    """A group for each clip."""
    return [f"clip{place}" for place in range(len(clips))]


@settings(max_examples=40)
@given(SMALL)
def test_few_arrangements_are_counted_one_by_one(drawn: tuple[list[int], list[int], int]) -> None:
    scores, rival, positives = np.array(drawn[0], float), np.array(drawn[1], float), drawn[2]
    targets = np.arange(len(scores)) < positives
    seen = average_precision(scores, targets)
    places = [np.isin(np.arange(len(scores)), each) for each in itertools.combinations(range(len(scores)), positives)]
    as_high = sum(average_precision(scores, placed) >= seen - 1e-9 for placed in places)
    alone = alone_in_group(targets)
    assert p_against_chance(scores, targets, alone) == pytest.approx(as_high / len(places))
    assert p_against(scores, rival, targets, alone) >= 2.0 ** -len(scores)
    assert p_against(scores, scores, targets, alone) == 1


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (2, 3), (5, 5), (1, 99)])
@pytest.mark.parametrize("clips_each", [1, 10])
def test_a_perfect_ranking_of_few_is_one_of_all_choices_of_groups(
    positives: int, negatives: int, clips_each: int
) -> None:
    groups = [f"group{place}" for place in range(positives + negatives)] * clips_each
    targets = np.tile(np.arange(positives + negatives) < positives, clips_each)
    choices = comb(positives + negatives, positives)
    assert p_against_chance(targets.astype(float), targets, groups) == pytest.approx(1 / choices)
    assert p_against_chance(np.zeros(len(targets)), targets, groups) == 1
    rising = np.tile(np.arange(positives + negatives), clips_each)  # those with the target are the lowest
    assert p_against_chance(rising, targets, groups) == 1


def test_many_arrangements_are_drawn_at_random() -> None:
    targets = np.arange(60) < 12
    perfect, alone = targets.astype(float), alone_in_group(targets)
    assert p_against_chance(perfect, targets, alone) == 1 / ARRANGEMENTS
    assert p_against(perfect, -perfect, targets, alone) == 1 / ARRANGEMENTS
    assert p_against_chance(perfect, targets, alone, seed=1) == 1 / ARRANGEMENTS
    assert p_against(-perfect, perfect, targets, alone) == 1


def recordings(
    seed: int, lengths: dict[bool, int], alike: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Scores of two detectors that know nothing, targets and groups: two recordings with the target, three without.

    `alike`: whether all clips of a recording have one score.
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
def test_detectors_that_know_nothing_have_a_low_p_no_more_often_than_they_should(lengths: dict, alike: bool) -> None:
    """One choice of ten ranks the two recordings first, and one of 32 exchanges is the best: 0.1 and 0.03 are low."""
    p_chance, p_rival = [], []
    for seed in range(300):
        model, rival, targets, groups = recordings(seed, lengths, alike)
        p_chance.append(p_against_chance(model, targets, groups))
        if seed % 4 == 0:
            p_rival.append(p_against(model, rival, targets, groups))
    for p in (np.array(p_chance), np.array(p_rival)):
        for level in (0.025, 0.05, 0.1, 0.2, 0.5):
            assert np.mean(p <= level) <= level + 3 * np.sqrt(level * (1 - level) / len(p))


def test_a_clear_effect_in_enough_groups_is_found() -> None:
    generator = np.random.default_rng(0)
    code = np.repeat(np.arange(16), 10)
    targets, groups = code < 8, [f"group{number}" for number in code]
    model = 3.0 * targets + 0.3 * generator.normal(size=16)[code] + 0.3 * generator.normal(size=160)
    rival = generator.normal(size=16)[code]
    assert p_against_chance(model, targets, groups) == 1 / ARRANGEMENTS
    assert p_against(model, rival, targets, groups) < 0.025


@pytest.mark.parametrize("targets", ["+-+-+-+-", "+++-+-+-", "+++++-+-", "---+---+"])
def test_groups_of_both_kinds_count_once_and_for_either_kind(targets: str) -> None:
    """Four groups of two clips each: two for each kind, so that a perfect ranking is one of six."""
    holds = np.array([sign == "+" for sign in targets])
    assert p_against_chance(holds.astype(float), holds, list("aabbccdd")) == pytest.approx(1 / 6)


def test_one_group_of_both_kinds_shows_nothing() -> None:
    targets = np.arange(20) < 10
    assert p_against_chance(targets.astype(float), targets, ["her"] * 20) == 1
    assert p_against(targets.astype(float), -targets.astype(float), targets, ["her"] * 20) == 0.5


def test_units_of_the_rival_do_not_matter() -> None:
    generator, targets = np.random.default_rng(0), np.arange(40) < 10
    model, rival = targets + generator.normal(size=40), generator.normal(size=40)
    groups = alone_in_group(targets)
    assert p_against(model, rival, targets, groups) == p_against(model, 20 * rival - 60, targets, groups)


@pytest.mark.parametrize(("songs", "shown"), [(5, False), (6, True), (60, True)])
def test_a_difference_that_is_the_same_in_each_cluster_is_shown_by_six_of_them(songs: int, shown: bool) -> None:
    """0.5 ** 6 is below 0.025, 0.5 ** 5 is not."""
    clusters, resampled = {"songs": songs, "listeners": 100}, np.full(200, 0.3)
    assert is_above_zero(interval_of(0.3, resampled, clusters, 100, kind="song")) is shown
    assert not is_above_zero(interval_of(-0.3, -resampled, clusters, 100, kind="song"))
    assert not is_above_zero(interval_of(0.0, 0 * resampled, clusters, 100, kind="song"))
    assert not is_above_zero(interval_of(float("nan"), resampled, clusters, 100, kind="song"))
    varied = 0.3 + np.linspace(-0.1, 0.1, 200)
    assert is_above_zero(interval_of(0.3, varied, {"songs": 60}, 100, kind="song"))
    assert not is_above_zero(interval_of(0.05, varied - 0.25, {"songs": 60}, 100, kind="song"))
