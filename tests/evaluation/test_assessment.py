"""The assessment of one channel as a whole: real effects, missing effects and unusual data."""

import numpy as np
import pytest

from evaluation.signal_baselines import BASELINES_WITHOUT_SOUND
from evaluation.signals import error_over_time, longest_of_song
from evaluation.trials import Trials
from tests.helpers.facts.eda import make_assessment


def test_an_effect_is_detected() -> None:
    results = make_assessment()
    assert results.verdict.verdict == "effect"
    assert results.verdict.missing == []
    assert results.gain.low > 0.3
    assert results.null.p < 0.01
    assert results.interval_over == "both"
    assert results.model["rmse"].trials == 60


def test_uncoupled_data_have_no_effect() -> None:
    results = make_assessment(coupling=0.0)
    assert results.verdict.verdict == "no effect"
    assert len(results.verdict.missing) >= 1


def test_a_perfect_prediction_is_an_effect_although_all_resamples_agree() -> None:
    results = make_assessment(noise=0.0)
    assert results.model["pearson"].low == pytest.approx(1)
    assert results.verdict.verdict == "effect"


def test_an_inverted_prediction_is_no_effect() -> None:
    results = make_assessment(coupling=-1.0, noise=0.0)
    assert results.model["pearson"].mean == pytest.approx(-1)
    assert results.verdict.verdict == "no effect"


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"songs": 1}, "only one song"),
        ({"songs": 4}, "4 songs"),
        ({"constant": 0.3}, "lower bound"),
        ({"coupling": 0.0, "listeners": 1}, "lower bound"),
        ({"masked": range(60)}, "no interval"),
    ],
    ids=str,
)
def test_the_verdict_names_the_missing_condition(changes: dict, missing: str) -> None:
    verdict = make_assessment(**changes).verdict
    assert verdict.verdict == "no effect"
    assert missing in " ".join(verdict.missing)


def test_fully_masked_trials_are_counted_as_undefined_and_change_nothing_else() -> None:
    complete, masked = make_assessment(), make_assessment(masked=[3, 17])
    assert masked.model["rmse"].undefined == 2
    assert masked.model["rmse"].trials == 58
    assert masked.model["pearson"].mean == pytest.approx(complete.model["pearson"].mean, abs=0.05)


def test_with_one_listener_intervals_are_over_songs() -> None:
    results = make_assessment(listeners=1)
    assert results.interval_over == "songs"
    assert results.ceiling.split_half is None
    assert results.ceiling.leave_one_out.mean is None


def test_the_longest_prediction_of_a_song_is_used() -> None:
    longest = longest_of_song([np.zeros(3), np.ones(5), np.zeros(2)], ["a", "a", "b"])
    assert len(longest["a"]) == 5
    assert len(longest["b"]) == 2


def test_error_over_time_is_the_rmse_of_bins_of_two_seconds() -> None:
    mask = np.ones((2, 24), bool)
    mask[1, 10:] = False  # the second trial ends after 2.5 s
    target = np.zeros((2, 24))
    prediction = np.where(np.arange(24) < 8, 3.0, 1.0) * np.ones((2, 1))
    trials = Trials(prediction, target, mask, np.array(["a", "b"]), np.array(["x", "y"]), 4.0, "uS")
    errors = error_over_time(trials, dict.fromkeys(BASELINES_WITHOUT_SOUND, np.full((2, 24), 2.0)))
    assert errors.seconds == [0.0, 2.0, 4.0]
    assert errors.trials == [2, 2, 1]
    assert errors.rmse["model"] == [3.0, 1.0, 1.0]
    assert errors.rmse["time_curve"] == [2.0, 2.0, 2.0]
    mask[:, 8:16] = False
    assert error_over_time(trials, dict.fromkeys(BASELINES_WITHOUT_SOUND, target)).rmse["model"] == [3.0, None, 1.0]


def test_the_histogram_of_the_null_counts_every_permutation() -> None:
    null = make_assessment().null
    assert null is not None
    assert sum(null.histogram.counts) == 999
    assert len(null.histogram.edges) == len(null.histogram.counts) + 1
