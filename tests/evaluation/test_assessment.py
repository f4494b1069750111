"""The assessment as a whole: effects are found, their absence too, and odd data have named outcomes."""

import numpy as np
import pytest

from evaluation.signal_baselines import BASELINES_WITHOUT_SOUND
from evaluation.signals import error_over_time, longest_of_song
from evaluation.trials import Trials
from tests.helpers.facts.eda import make_assessment


def test_an_effect_is_found() -> None:
    results = make_assessment()
    assert results.verdict.verdict == "effect"
    assert results.verdict.missing == []
    assert results.gain.low > 0.3
    assert results.null.p < 0.01
    assert results.interval_over == "both"
    assert results.model["rmse"].trials == 60


def test_no_effect_is_an_answer() -> None:
    results = make_assessment(coupling=0.0)
    assert results.verdict.verdict == "no effect"
    assert len(results.verdict.missing) >= 1


def test_a_perfect_prediction_is_an_effect_though_no_resample_differs() -> None:
    results = make_assessment(noise=0.0)
    assert results.model["pearson"].low == pytest.approx(1)
    assert results.verdict.verdict == "effect"


def test_the_opposite_of_what_happens_is_no_effect() -> None:
    results = make_assessment(coupling=-1.0, noise=0.0)
    assert results.model["pearson"].mean == pytest.approx(-1)
    assert results.verdict.verdict == "no effect"


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"songs": 1}, "there is no other song"),
        ({"songs": 4}, "4 songs are fewer than 6"),
        ({"constant": 0.3}, "may be nothing"),
        ({"coupling": 0.0, "listeners": 1}, "may be nothing"),
        ({"masked": range(60)}, "no interval"),
    ],
    ids=str,
)
def test_odd_data_have_named_outcomes(changes: dict, missing: str) -> None:
    verdict = make_assessment(**changes).verdict
    assert verdict.verdict == "no effect"
    assert missing in " ".join(verdict.missing)


def test_trials_that_are_wholly_masked_are_counted_and_change_nothing_else() -> None:
    whole, less = make_assessment(), make_assessment(masked=[3, 17])
    assert less.model["rmse"].undefined == 2
    assert less.model["rmse"].trials == 58
    assert less.model["pearson"].mean == pytest.approx(whole.model["pearson"].mean, abs=0.05)


def test_one_listener_is_drawn_over_songs() -> None:
    results = make_assessment(listeners=1)
    assert results.interval_over == "songs"
    assert results.ceiling.split_half is None
    assert results.ceiling.leave_one_out.mean is None


def test_the_longest_prediction_of_a_song_stands_for_it() -> None:
    longest = longest_of_song([np.zeros(3), np.ones(5), np.zeros(2)], ["a", "a", "b"])
    assert len(longest["a"]) == 5
    assert len(longest["b"]) == 2


def test_error_over_time_is_the_rmse_of_each_two_seconds() -> None:
    mask = np.ones((2, 24), bool)
    mask[1, 10:] = False  # the second trial ends after 2.5 s
    target = np.zeros((2, 24))
    prediction = np.where(np.arange(24) < 8, 3.0, 1.0) * np.ones((2, 1))
    trials = Trials(prediction, target, mask, np.array(["a", "b"]), np.array(["x", "y"]), 4.0, "uS")
    found = error_over_time(trials, dict.fromkeys(BASELINES_WITHOUT_SOUND, np.full((2, 24), 2.0)))
    assert found.seconds == [0.0, 2.0, 4.0]
    assert found.trials == [2, 2, 1]
    assert found.rmse["model"] == [3.0, 1.0, 1.0]
    assert found.rmse["time_curve"] == [2.0, 2.0, 2.0]
    mask[:, 8:16] = False
    assert error_over_time(trials, dict.fromkeys(BASELINES_WITHOUT_SOUND, target)).rmse["model"] == [3.0, None, 1.0]


def test_the_histogram_of_the_null_holds_every_permutation() -> None:
    null = make_assessment().null
    assert null is not None
    assert sum(null.histogram.counts) == 999
    assert len(null.histogram.edges) == len(null.histogram.counts) + 1
