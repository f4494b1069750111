"""Scores of one number per creative: SciPy's and scikit-learn's, by hand, and intervals that hold the truth."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as peer
from sklearn.linear_model import Ridge

from evaluation import regression
from evaluation.embedding_baselines import join_modalities, mean_baseline, mean_embeddings, ridge, ridge_weights
from evaluation.intervals import Interval
from evaluation.regression import (
    FEWEST,
    MORE_IS_BETTER,
    Comparison,
    RegressionResults,
    assess,
    drawn_weights,
    join_names,
    judge_baselines,
    judge_modalities,
    parts_of,
    ranks_of,
    scores_of,
)
from tests.helpers.metric_modules import load

TARGETS = np.array([1.0, 2.0, 3.0, 4.0])


def peer_scores(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Score by SciPy and scikit-learn."""
    return {
        "spearman": stats.spearmanr(targets, predictions).statistic,
        "pearson": stats.pearsonr(targets, predictions).statistic,
        "r2": peer.r2_score(targets, predictions),
        "mae": peer.mean_absolute_error(targets, predictions),
        "rmse": peer.root_mean_squared_error(targets, predictions),
    }


def point_scores(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float | None]:
    """Score the rows as they are; None is a score that is not defined."""
    scores = {name: float(values[0]) for name, values in scores_of(targets, predictions).items()}
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}


def assessed(targets: np.ndarray, predictions: np.ndarray, **given: Any) -> RegressionResults:
    """Assess predictions; arguments that are not given are the simplest possible."""
    rows = len(targets)
    rest = {
        "ids": [f"c{row}" for row in range(rows)],
        "baselines": {"mean": np.full(rows, float(np.mean(targets)))},
        "ablations": {},
        "present": {"text": np.ones(rows, bool)},
        "unit": "s",
        "samples": 200,
    }
    return assess(targets=targets, predictions=predictions, **(rest | given))


# Scores


def test_scores_by_hand() -> None:
    """Errors 0, 0, 1 and -1: squares sum to 2, those of the targets around 2.5 to 5; the last two change places."""
    found = point_scores(TARGETS, np.array([1.0, 2.0, 4.0, 3.0]))
    assert found == {"spearman": pytest.approx(0.8), "pearson": pytest.approx(0.8), "r2": pytest.approx(1 - 2 / 5),
                     "mae": 0.5, "rmse": pytest.approx(np.sqrt(0.5))}  # fmt: skip


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_scores_of_a_resample_are_those_of_its_rows_written_out(seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    rows = int(random.integers(5, 60))
    targets = 40 + random.normal(size=rows)
    predictions = targets + random.normal(size=rows)
    if ties:
        targets, predictions = targets.round(), predictions.round()
    (weights,) = drawn_weights(rows, 30, seed)
    weights = np.vstack([np.ones(rows), weights])
    found = scores_of(targets, predictions, weights)
    for place, drawn in enumerate(weights.astype(int)):
        written = peer_scores(np.repeat(targets, drawn), np.repeat(predictions, drawn))
        assert {name: values[place] for name, values in found.items()} == {
            name: pytest.approx(value, abs=1e-9) for name, value in written.items()
        }


def test_copies_and_ties_share_their_mean_rank() -> None:
    """Drawn 2, 0, 1 and 1 times, the values 5, 1, 5 and 9 are written out 5, 5, 5 and 9; none is drawn of 1."""
    ranks = ranks_of(np.array([5.0, 1.0, 5.0, 9.0]), np.array([[2.0, 0, 1, 1], [1, 1, 1, 1]]))
    assert ranks[0, [0, 2, 3]].tolist() == [2, 2, 4]
    assert ranks[1].tolist() == [2.5, 1, 2.5, 4]


@pytest.mark.parametrize("level", [0.0, 0.1, 1e6])
def test_a_constant_has_no_correlation_and_constant_targets_no_r2(level: float) -> None:
    constant = np.full(4, level)
    found = point_scores(TARGETS, constant)
    assert found["spearman"] is None
    assert found["pearson"] is None
    assert found["r2"] <= 0
    assert found["mae"] > 0
    noise = constant + level * 1e-8 * np.array([1, -1, 1, 1])  # what single precision leaves of one number
    assert point_scores(TARGETS, noise)["spearman"] is None
    found = point_scores(constant, TARGETS)
    assert [found[name] for name in ("spearman", "pearson", "r2")] == [None] * 3
    assert found["rmse"] > 0


def test_a_small_signal_on_a_high_level_is_no_constant() -> None:
    assert point_scores(1000 + 0.01 * TARGETS, 1000 + 0.02 * TARGETS)["pearson"] == pytest.approx(1)


@pytest.mark.parametrize("name", ["spearman", "pearson", "r2", "mae", "rmse"])
def test_the_modules_of_evaluate_say_the_same_of_all_creatives_as_one_trial(name: str, tmp_path: Any) -> None:
    random = np.random.default_rng(0)
    targets, noise = random.normal(size=(2, 50)).round(1)
    found = load(name, tmp_path).compute(
        predictions=[(targets + noise).tolist()], references=[targets.tolist()], mask=[[True] * 50]
    )
    assert found[name] == pytest.approx(point_scores(targets, targets + noise)[name])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets.shape = \(4,\) and predictions.shape = \(3,\)"):
        scores_of(TARGETS, TARGETS[:3])
    with pytest.raises(ValueError, match=r"weights.shape = \(2, 3\) must be \(S, N\), with N = 4 rows"):
        scores_of(TARGETS, TARGETS, np.ones((2, 3)))


# Resamples and intervals


def test_resamples_do_not_depend_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = drawn_weights(7, 20, seed=3)
    monkeypatch.setattr(regression, "CELLS", 40)
    parts = list(drawn_weights(7, 20, seed=3))
    assert len(parts) == 4
    assert np.array_equal(np.vstack(parts), whole)
    assert (whole.sum(axis=1) == 7).all()


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 150 sets of 60 creatives with r = 0.6; Spearman's of a normal pair is 6 / pi asin(0.3)."""
    random, trials = np.random.default_rng(0), 150
    truth = {"pearson": 0.6, "spearman": 6 / np.pi * np.arcsin(0.3), "mae": 0.8 * np.sqrt(2 / np.pi)}
    held = dict.fromkeys(truth, 0)
    for _ in range(trials):
        said = random.normal(size=60)
        targets = 0.6 * said + 0.8 * random.normal(size=60)
        scores = assessed(targets, said * 0.6).scores
        for name, value in truth.items():
            held[name] += scores[name].low <= value <= scores[name].high
    assert all(0.89 <= count / trials <= 0.995 for count in held.values()), held


def test_a_paired_difference_is_surer_than_two_scores() -> None:
    """Both err alike, the second a little more: their intervals overlap, that of the difference is above 0."""
    random = np.random.default_rng(0)
    targets, shared, own = random.normal(size=(3, 200))
    results = assessed(targets, targets + shared, ablations={"without text": targets + shared + 0.6 * own})
    ablated = results.ablations["without text"]
    assert results.scores["rmse"].high > ablated.scores["rmse"].low
    for name, gain in ablated.difference.items():  # more is better, whatever the score
        less = results.scores[name].mean - ablated.scores[name].mean
        assert gain.mean == pytest.approx(less if MORE_IS_BETTER[name] else -less)
        assert gain.low > 0, name


def test_results_are_the_same_for_the_same_seed() -> None:
    random = np.random.default_rng(0)
    targets, noise = random.normal(size=(2, 30))
    first, again, other = (assessed(targets, targets + noise, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.scores["r2"].low != other.scores["r2"].low
    assert first.scores["r2"].mean == other.scores["r2"].mean


def test_the_record_is_json_and_has_one_part_per_fifth_of_the_targets() -> None:
    record = json.loads(json.dumps(asdict(assessed(np.arange(10.0), np.arange(10.0) + 0.5)), allow_nan=False))
    assert [(part["from"], part["to"]) for part in record["residuals"]] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert record["baselines"]["mean"]["difference"]["mae"]["mean"] == pytest.approx(2.5 - 0.5)
    assert record["targets"] == {"mean": 4.5, "std": pytest.approx(np.sqrt(8.25)), "lowest": 0, "median": 4.5,
                                 "highest": 9}  # fmt: skip


# Results


def test_a_constant_model_has_no_correlation_and_says_why() -> None:
    random = np.random.default_rng(0)
    targets = random.normal(size=40)
    results = assessed(targets, np.full(40, 0.1), ablations={"without text": targets})
    reasons = {name: score.reason for name, score in results.scores.items() if score.mean is None}
    assert reasons == dict.fromkeys(("spearman", "pearson"), "all predictions are equal")
    gain = results.ablations["without text"].difference["spearman"]
    assert (gain.mean, gain.reason) == (None, "the model: all predictions are equal")
    assert results.verdict.unbeaten == ["mean"]
    assert results.modalities.matter == []
    json.dumps(asdict(results), allow_nan=False)


def test_equal_targets_have_errors_and_nothing_else() -> None:
    results = assessed(np.full(10, 3.0), np.arange(10.0))
    assert results.scores["r2"].reason == "all targets are equal"
    assert results.scores["mae"].mean > 0
    assert results.verdict.unbeaten == ["mean"]
    assert len(results.residuals) == 1
    json.dumps(asdict(results), allow_nan=False)


@pytest.mark.parametrize("rows", [1, 2, FEWEST - 1])
def test_few_creatives_show_nothing_however_good_the_model(rows: int) -> None:
    targets = np.arange(rows, dtype=float)
    results = assessed(targets, targets + 0.01, ablations={"without text": -targets})
    assert results.verdict.unbeaten == ["mean"]
    assert results.verdict.verdict.endswith(f"(creatives: {rows}, fewer than {FEWEST})")
    assert results.modalities.matter == []
    assert results.modalities.by == {"text": []}
    if rows == 1:
        assert results.scores["mae"].reason == "there is one creative: an interval over creatives needs at least 2"
    json.dumps(asdict(results), allow_nan=False)


def test_the_modalities_that_matter_are_those_whose_removal_costs() -> None:
    """The target is text and video; sound is noise that the model does not use; what costs most comes first."""
    random = np.random.default_rng(0)
    text, video, noise = random.normal(size=(3, 300))
    targets = text + 2 * video + 0.3 * noise
    model = text + 2 * video
    ablations = {"without text": 2 * video, "without video": text, "without audio": model + 1e-3 * noise[::-1],
                 "text alone": text}  # fmt: skip
    flags = {name: np.ones(300, bool) for name in ("text", "video", "audio", "back_audio")}
    flags["audio"][:20] = flags["text"][:5] = False
    results = assessed(targets, model, ablations=ablations, present=flags)
    found = results.modalities
    assert (found.matter, found.not_shown, found.not_judged) == (["video", "text"], ["audio"], ["back_audio"])
    assert found.by["text"] == list(MORE_IS_BETTER)
    assert found.by["audio"] == []
    assert results.lacking == {"text": 5, "video": 0, "audio": 20, "back_audio": 0}
    assert results.lacking_all == 0
    assert results.verdict.beaten == ["mean"]


def test_of_two_modalities_the_other_alone_tells_what_removal_costs() -> None:
    random = np.random.default_rng(0)
    targets, noise = random.normal(size=(2, 50))
    flags = {name: np.ones(50, bool) for name in ("text", "video")}
    found = assessed(targets, targets, ablations={"text alone": noise, "video alone": targets}, present=flags)
    assert found.modalities.removals == {"text": "video alone", "video": "text alone"}
    assert found.modalities.matter == ["video"]


def test_the_verdict_names_each_baseline_that_is_not_beaten() -> None:
    def compared(low: float | None) -> Comparison:
        bounds = (low, 0.2, {"creatives": 50}, 200) if low is not None else (None, None, {"creatives": 50}, 0)
        return Comparison({}, {"r2": Interval(0.1, *bounds, 50, 0)})

    baselines = {"mean": compared(0.05), "ridge on text": compared(-0.01), "ridge on all": compared(None)}
    found = judge_baselines(baselines, rows=50)
    assert found.verdict == "not shown to be better than ridge on text and ridge on all"
    assert (found.beaten, found.unbeaten) == (["mean"], ["ridge on text", "ridge on all"])
    assert judge_baselines({"mean": compared(0.05)}, rows=50).verdict == "better than mean"
    assert judge_modalities(["text"], {}, 50).not_judged == ["text"]
    assert [join_names(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_residuals_go_by_fifths_of_the_targets_and_equal_targets_stay_together() -> None:
    """Predicting 5 of 0 to 9 is 4.5 too much for the lowest two, 3.5 too little for the highest two."""
    residuals = assessed(np.arange(10.0), np.full(10, 5.0)).residuals
    assert [part["rows"] for part in residuals] == [2] * 5
    assert [part["residual"].mean for part in residuals] == pytest.approx([4.5, 2.5, 0.5, -1.5, -3.5])
    parts = parts_of(np.array([0.0, 0, 0, 0, 1, 2, 3]))
    assert parts.sum(axis=0).tolist() == [1] * 7
    assert parts.any(axis=1).all()
    assert parts[0, :4].all()


@pytest.mark.parametrize(("changes", "message"), [
    ({"ids": ["a", "b", "b", "c"]}, "ids: 'b' stands there twice"),
    ({"baselines": {}}, "baselines: none was given; give at least the mean"),
    ({"baselines": {"mean": np.zeros(3)}}, r"mean: \(3,\) was given; it takes \(4,\)"),
    ({"predictions": np.array([0, np.nan, 0, 0])}, "the model: that of 'c1' is nan"),
    ({"targets": np.array([0, 1, np.inf, 0])}, "targets: that of 'c2' is inf"),
    ({"ablations": {"mean": TARGETS}}, r"\['mean'\]: names of baselines and ablations must differ"),
    ({"baselines": {"the model": TARGETS}}, "must differ, also from 'the model'"),
    ({"present": {"text": np.ones(2, bool)}}, r"present: text is \(2,\); it takes \(4,\)"),
    ({"ids": []}, "there is no creative to score"),
])  # fmt: skip
def test_what_cannot_be_scored_is_refused(changes: dict[str, Any], message: str) -> None:
    given = {"targets": TARGETS, "predictions": TARGETS} | changes
    with pytest.raises(ValueError, match=message):
        assessed(**given)


# Baselines on embeddings


@pytest.mark.parametrize(("rows", "features"), [(60, 8), (20, 50), (30, 30)])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 100.0])
def test_ridge_is_that_of_scikit_learn_in_both_forms(rows: int, features: int, penalty: float) -> None:
    random = np.random.default_rng(0)
    x, validation, test = (3 + 2 * random.normal(size=(count, features)) for count in (rows, 10, 7))
    y = 5 + x[:, 0] + random.normal(size=rows)
    level, spread = x.mean(axis=0), x.std(axis=0)
    judge = Ridge(alpha=rows * penalty).fit((x - level) / spread, y)
    found = ridge(x, y, validation, np.zeros(10), test, penalties=[penalty])
    assert found == pytest.approx(judge.predict((test - level) / spread), rel=1e-8, abs=1e-8)


def test_ridge_weights_by_hand() -> None:
    """One feature -1, 1 and targets -2, 2: w = x'y / (x'x + 2 penalty) = 4 / (2 + 2 penalty)."""
    x, y = np.array([[-1.0], [1.0]]), np.array([-2.0, 2.0])
    assert ridge_weights(x, y, [0.0, 1.0])[:, 0].tolist() == pytest.approx([2, 1])
    thrice = ridge_weights(np.hstack([x, x, x]), y, [1.0])  # the dual form: three share the weight 12 / (6 + 2)
    assert thrice.tolist() == [pytest.approx([0.5, 0.5, 0.5])]


def test_the_penalty_is_chosen_on_validation() -> None:
    """Without noise the smallest is best; of targets that have nothing to do with the features the largest is."""
    random = np.random.default_rng(0)
    x, validation, test = random.normal(size=(3, 100, 20))
    weights = random.normal(size=20)
    assert ridge(x, x @ weights, validation, validation @ weights, test) == pytest.approx(test @ weights, abs=0.01)
    noise = random.normal(size=100)
    found = ridge(x, noise, validation, np.full(100, noise.mean()), test)
    assert found == pytest.approx(mean_baseline(noise, 100), abs=1e-3)


def test_a_feature_that_is_constant_in_training_counts_for_nothing() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 2)), random.normal(size=30)
    wide = np.column_stack([x, np.full(30, 0.1)])
    shifted = np.column_stack([x, np.full(30, 1e6)])
    assert ridge(wide, y, wide, y, shifted) == pytest.approx(ridge(x, y, x, y, x))
    only = np.full((30, 1), 0.1)
    assert ridge(only, y, only, y, only) == pytest.approx(mean_baseline(y, 30))


def test_frames_are_averaged_and_what_is_absent_is_zeros_with_a_mark() -> None:
    values = [np.array([[1.0, 2.0], [3.0, 6.0]]), np.empty((0, 5)), np.array([5.0, 6.0], np.float32)]
    present = np.array([True, False, True])
    found = mean_embeddings(values, present)
    assert found.tolist() == [[2, 4], [0, 0], [5, 6]]
    assert mean_embeddings([None, None], np.zeros(2, bool), width=3).tolist() == [[0, 0, 0]] * 2
    joined = join_modalities({"text": found, "video": found[:, :1]}, {"text": present, "video": ~present})
    assert joined.tolist() == [[2, 4, 1, 2, 0], [0, 0, 0, 0, 1], [5, 6, 1, 5, 0]]


@pytest.mark.parametrize(("values", "present", "message"), [
    ([np.ones((1, 2)), np.ones((1, 3))], [True, True], "row 1 has 3 numbers a frame and others 2"),
    ([np.ones((0, 2))], [True], r"row 0 is said to be present and is \(0, 2\)"),
    ([np.ones((1, 2))], [False], "no row is present, .* give width"),
    ([np.array([[1.0, np.nan]])], [True], "values: row 0 holds what is no number"),
    ([np.ones((1, 2))], [True, True], "rows of values: 1, and of present: 2"),
])  # fmt: skip
def test_embeddings_that_cannot_be_averaged_are_refused(values: list, present: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_embeddings(values, np.array(present))


def test_ridge_refuses_sides_that_do_not_fit() -> None:
    x, y = np.ones((4, 2)), TARGETS
    with pytest.raises(ValueError, match="validation: 0 rows and 0 targets"):
        ridge(x, y, x[:0], y[:0], x)
    with pytest.raises(ValueError, match=r"penalties: \(1.0, 0.0\) must be above 0"):
        ridge(x, y, x, y, x, penalties=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"train_y: \(4, 1\) was given; it takes \(N,\)"):
        ridge(x, y[:, None], x, y, x)


@pytest.mark.parametrize(
    ("rows", "predict", "verdict"),
    [
        (12, lambda targets: targets, "better than mean"),  # perfect
        (6, lambda targets: targets, "better than mean"),
        (5, lambda targets: targets, "not shown to be better than mean (creatives: 5, fewer than 6)"),
        (1, lambda targets: targets, "not shown to be better than mean (creatives: 1, fewer than 6)"),
        (12, lambda targets: -targets, "not shown to be better than mean"),  # the worst
        (12, lambda targets: np.zeros(len(targets)), "not shown to be better than mean"),  # as the baseline
        (12, lambda targets: np.full(len(targets), 9.0), "not shown to be better than mean"),
    ],
)
def test_verdicts_at_both_extremes(rows: int, predict: Callable, verdict: str) -> None:
    targets = np.linspace(-1, 1, rows)
    found = assessed(targets, predict(targets), baselines={"mean": np.zeros(rows)}).verdict
    assert found.verdict == verdict


def test_constant_targets_show_nothing() -> None:
    assert assessed(np.ones(12), np.ones(12)).verdict.unbeaten == ["mean"]
