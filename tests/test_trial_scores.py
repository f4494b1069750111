"""Scores whose values a person can check by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.trial_scores import summarise, trial_scores


def score(prediction: list[float], target: list[float], mask: list[bool] | None = None) -> dict[str, float]:
    """The scores of one trial."""
    prediction, target = np.array([prediction], float), np.array([target], float)
    mask = np.ones_like(target, bool) if mask is None else np.array([mask])
    return {name: values[0] for name, values in trial_scores(prediction, target, mask).items()}


@pytest.mark.parametrize(
    ("prediction", "target", "rmse", "mae", "pearson", "ccc"),
    [
        ([1, 2, 3], [1, 2, 3], 0.0, 0.0, 1.0, 1.0),
        ([2, 3, 4], [1, 2, 3], 1.0, 1.0, 1.0, 4 / 7),  # 2 * 2/3 / (2/3 + 2/3 + 1)
        ([3, 2, 1], [1, 2, 3], np.sqrt(8 / 3), 4 / 3, -1.0, -1.0),
        ([1, 2, 4], [1, 2, 3], np.sqrt(1 / 3), 1 / 3, 3 / np.sqrt(28 / 3), 6 / 7),
    ],
)
def test_known_answers(prediction: list, target: list, rmse: float, mae: float, pearson: float, ccc: float) -> None:
    scores = score(prediction, target)
    assert scores == pytest.approx({"rmse": rmse, "mae": mae, "pearson": pearson, "ccc": ccc})


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20), st.floats(-1e6, 1e6))
def test_frames_that_do_not_count_change_nothing(target: list[float], garbage: float) -> None:
    prediction = [value / 2 + 1 for value in target]
    alone = score(prediction, target)
    beside = score([*prediction, np.nan], [*target, garbage], [True] * len(target) + [False])
    np.testing.assert_allclose(list(alone.values()), list(beside.values()), rtol=1e-9, atol=1e-9)


def test_a_constant_has_no_correlation_and_it_is_counted() -> None:
    scores = trial_scores(np.array([[0.1] * 4, [1, 2, 3, 5]]), np.array([[1, 2, 3, 4.0]] * 2), np.ones((2, 4)))
    summary = summarise(scores)
    assert np.isnan(scores["pearson"][0])
    assert summary["pearson"] == {"mean": pytest.approx(0.98270763), "trials": 1, "undefined": 1}
    assert summary["ccc"]["undefined"] == 0  # a constant prediction agrees with nothing: 0, which is defined
    assert scores["ccc"][0] == 0


def test_a_trial_without_a_frame_is_counted_as_undefined() -> None:
    summary = summarise(trial_scores(np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 3), bool)))
    assert all(entry == {"mean": None, "trials": 0, "undefined": 1} for entry in summary.values())


def test_a_prediction_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 predicted frames in 1 trials are not finite"):
        trial_scores(np.array([[1, np.nan]]), np.zeros((1, 2)), np.ones((1, 2)))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        trial_scores(np.zeros((1, 3)), np.zeros((1, 2)), np.zeros((1, 2)))
