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


@settings(max_examples=40, deadline=None)
@given(SMALL)
def test_few_arrangements_are_counted_one_by_one(drawn: tuple[list[int], list[int], int]) -> None:
    scores, rival, positives = np.array(drawn[0], float), np.array(drawn[1], float), drawn[2]
    targets = np.arange(len(scores)) < positives
    seen = average_precision(scores, targets)
    places = [np.isin(np.arange(len(scores)), each) for each in itertools.combinations(range(len(scores)), positives)]
    as_high = sum(average_precision(scores, placed) >= seen - 1e-9 for placed in places)
    assert p_against_chance(scores, targets) == pytest.approx(as_high / len(places))
    assert p_against(scores, rival, targets) >= 2.0 ** -len(scores)
    assert p_against(scores, scores, targets) == 1


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (2, 3), (5, 5), (1, 99)])
def test_a_perfect_ranking_of_few_is_one_of_all_choices(positives: int, negatives: int) -> None:
    targets = np.arange(positives + negatives) < positives
    assert p_against_chance(targets.astype(float), targets) == pytest.approx(1 / comb(len(targets), positives))
    assert p_against_chance(np.zeros(len(targets)), targets) == 1
    assert p_against_chance(np.arange(len(targets)), targets) == 1  # those with the target are the lowest


def test_many_arrangements_are_drawn_at_random() -> None:
    targets = np.arange(60) < 12
    perfect = targets.astype(float)
    assert p_against_chance(perfect, targets) == p_against(perfect, -perfect, targets) == 1 / ARRANGEMENTS
    assert p_against_chance(perfect, targets, seed=1) == 1 / ARRANGEMENTS
    assert p_against(-perfect, perfect, targets) == 1


def test_scores_that_know_nothing_have_a_low_p_no_more_often_than_they_should() -> None:
    generator, targets = np.random.default_rng(0), np.arange(30) < 8
    p = [p_against_chance(generator.normal(size=30), targets) for _ in range(400)]
    assert np.mean(np.array(p) < 0.025) < 0.05
    assert np.mean(p) == pytest.approx(0.5, abs=0.05)


def test_units_of_the_rival_do_not_matter() -> None:
    generator, targets = np.random.default_rng(0), np.arange(40) < 10
    model, rival = targets + generator.normal(size=40), generator.normal(size=40)
    assert p_against(model, rival, targets) == p_against(model, 20 * rival - 60, targets)


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
