"""Regression scores: computed by hand, compared with SciPy and scikit-learn, and the coverage of intervals."""

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
    """Return the scores of SciPy and scikit-learn."""
    return {
        "spearman": stats.spearmanr(targets, predictions).statistic,
        "pearson": stats.pearsonr(targets, predictions).statistic,
        "r2": peer.r2_score(targets, predictions),
        "mae": peer.mean_absolute_error(targets, predictions),
        "rmse": peer.root_mean_squared_error(targets, predictions),
    }


def point_scores(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float | None]:
    """Return the scores of the original rows, None for an undefined score."""
    scores = {name: float(values[0]) for name, values in scores_of(targets, predictions).items()}
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}


def assessed(targets: np.ndarray, predictions: np.ndarray, **arguments: Any) -> RegressionResults:
    """Assess predictions, with simple defaults for all other arguments."""
    rows = len(targets)
    defaults = {
        "ids": [f"c{row}" for row in range(rows)],
        "baselines": {"mean": np.full(rows, float(np.mean(targets)))},
        "ablations": {},
        "present": {"text": np.ones(rows, bool)},
        "unit": "s",
        "samples": 200,
    }
    return assess(targets=targets, predictions=predictions, **(defaults | arguments))


# Scores


def test_scores_by_hand() -> None:
    # Errors 0, 0, 1 and -1: their squares sum to 2, those of the targets around 2.5 to 5. The last two swap ranks.
    scores = point_scores(TARGETS, np.array([1.0, 2.0, 4.0, 3.0]))
    assert scores == {"spearman": pytest.approx(0.8), "pearson": pytest.approx(0.8), "r2": pytest.approx(1 - 2 / 5),
                     "mae": 0.5, "rmse": pytest.approx(np.sqrt(0.5))}  # fmt: skip


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_scores_of_a_resample_are_those_of_repeated_rows(seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    rows = int(random.integers(5, 60))
    targets = 40 + random.normal(size=rows)
    predictions = targets + random.normal(size=rows)
    if ties:
        targets, predictions = targets.round(), predictions.round()
    (weights,) = drawn_weights(rows, 30, seed)
    weights = np.vstack([np.ones(rows), weights])
    scores = scores_of(targets, predictions, weights)
    for sample, counts in enumerate(weights.astype(int)):
        expected = peer_scores(np.repeat(targets, counts), np.repeat(predictions, counts))
        assert {name: values[sample] for name, values in scores.items()} == {
            name: pytest.approx(value, abs=1e-9) for name, value in expected.items()
        }


def test_copies_and_ties_share_their_mean_rank() -> None:
    # 5, 1, 5 and 9 drawn 2, 0, 1 and 1 times are the values 5, 5, 5 and 9.
    ranks = ranks_of(np.array([5.0, 1.0, 5.0, 9.0]), np.array([[2.0, 0, 1, 1], [1, 1, 1, 1]]))
    assert ranks[0, [0, 2, 3]].tolist() == [2, 2, 4]
    assert ranks[1].tolist() == [2.5, 1, 2.5, 4]


@pytest.mark.parametrize("level", [0.0, 0.1, 1e6])
def test_a_constant_has_no_correlation_and_constant_targets_no_r2(level: float) -> None:
    constant = np.full(4, level)
    scores = point_scores(TARGETS, constant)
    assert scores["spearman"] is None
    assert scores["pearson"] is None
    assert scores["r2"] <= 0
    assert scores["mae"] > 0
    noise = constant + level * 1e-8 * np.array([1, -1, 1, 1])  # rounding noise of single precision
    assert point_scores(TARGETS, noise)["spearman"] is None
    scores = point_scores(constant, TARGETS)
    assert [scores[name] for name in ("spearman", "pearson", "r2")] == [None] * 3
    assert scores["rmse"] > 0


def test_a_small_signal_on_a_high_level_is_not_a_constant() -> None:
    assert point_scores(1000 + 0.01 * TARGETS, 1000 + 0.02 * TARGETS)["pearson"] == pytest.approx(1)


@pytest.mark.parametrize("name", ["spearman", "pearson", "r2", "mae", "rmse"])
def test_scores_agree_with_the_evaluate_modules_on_one_trial_of_all_creatives(name: str, tmp_path: Any) -> None:
    random = np.random.default_rng(0)
    targets, noise = random.normal(size=(2, 50)).round(1)
    result = load(name, tmp_path).compute(
        predictions=[(targets + noise).tolist()], references=[targets.tolist()], mask=[[True] * 50]
    )
    assert result[name] == pytest.approx(point_scores(targets, targets + noise)[name])


def test_shapes_that_do_not_match_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"targets.shape=\(4,\), predictions.shape=\(3,\)"):
        scores_of(TARGETS, TARGETS[:3])
    with pytest.raises(ValueError, match=r"weights.shape=\(2, 3\): must be \(S, 4\)"):
        scores_of(TARGETS, TARGETS, np.ones((2, 3)))


# Resamples and intervals


def test_resamples_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    (one_block,) = drawn_weights(7, 20, seed=3)
    monkeypatch.setattr(regression, "CELLS", 40)
    parts = list(drawn_weights(7, 20, seed=3))
    assert len(parts) == 4
    assert np.array_equal(np.vstack(parts), one_block)
    assert (one_block.sum(axis=1) == 7).all()


def test_intervals_cover_the_truth_as_often_as_their_level() -> None:
    # 150 sets of 60 creatives with r = 0.6; Spearman's correlation of a normal pair is then 6 / pi asin(0.3).
    random, trials = np.random.default_rng(0), 150
    truth = {"pearson": 0.6, "spearman": 6 / np.pi * np.arcsin(0.3), "mae": 0.8 * np.sqrt(2 / np.pi)}
    covered = dict.fromkeys(truth, 0)
    for _ in range(trials):
        signal = random.normal(size=60)
        targets = 0.6 * signal + 0.8 * random.normal(size=60)
        scores = assessed(targets, signal * 0.6).scores
        for name, value in truth.items():
            covered[name] += scores[name].low <= value <= scores[name].high
    assert all(0.89 <= count / trials <= 0.995 for count in covered.values()), covered


def test_the_interval_of_a_paired_difference_is_narrower_than_those_of_the_scores() -> None:
    # Both share most of their errors, the second has a little more. Their intervals overlap, but that of the
    # difference is above 0.
    random = np.random.default_rng(0)
    targets, shared, own = random.normal(size=(3, 200))
    results = assessed(targets, targets + shared, ablations={"without text": targets + shared + 0.6 * own})
    ablated = results.ablations["without text"]
    assert results.scores["rmse"].high > ablated.scores["rmse"].low
    for name, gain in ablated.difference.items():  # positive if the model is better, also for errors
        difference = results.scores[name].mean - ablated.scores[name].mean
        assert gain.mean == pytest.approx(difference if MORE_IS_BETTER[name] else -difference)
        assert gain.low > 0, name


def test_results_are_the_same_for_the_same_seed() -> None:
    random = np.random.default_rng(0)
    targets, noise = random.normal(size=(2, 30))
    first, again, other = (assessed(targets, targets + noise, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.scores["r2"].low != other.scores["r2"].low
    assert first.scores["r2"].mean == other.scores["r2"].mean


def test_the_results_are_json_with_one_residual_per_fifth_of_the_targets() -> None:
    record = json.loads(json.dumps(asdict(assessed(np.arange(10.0), np.arange(10.0) + 0.5)), allow_nan=False))
    assert [(part["from"], part["to"]) for part in record["residuals"]] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert record["baselines"]["mean"]["difference"]["mae"]["mean"] == pytest.approx(2.5 - 0.5)
    assert record["targets"] == {"mean": 4.5, "std": pytest.approx(np.sqrt(8.25)), "lowest": 0, "median": 4.5,
                                 "highest": 9}  # fmt: skip


# Results


def test_a_constant_model_has_no_correlation_and_a_reason() -> None:
    random = np.random.default_rng(0)
    targets = random.normal(size=40)
    results = assessed(targets, np.full(40, 0.1), ablations={"without text": targets})
    reasons = {name: score.reason for name, score in results.scores.items() if score.mean is None}
    assert reasons.keys() == {"spearman", "pearson"}
    assert all("predictions" in reason for reason in reasons.values())
    gain = results.ablations["without text"].difference["spearman"]
    assert gain.mean is None
    assert gain.reason.startswith("the model: ")
    assert results.verdict.unbeaten == ["mean"]
    assert results.modalities.matter == []
    json.dumps(asdict(results), allow_nan=False)


def test_equal_targets_have_errors_but_no_r2() -> None:
    results = assessed(np.full(10, 3.0), np.arange(10.0))
    assert results.scores["r2"].mean is None
    assert "targets" in results.scores["r2"].reason
    assert results.scores["mae"].mean > 0
    assert results.verdict.unbeaten == ["mean"]
    assert len(results.residuals) == 1
    json.dumps(asdict(results), allow_nan=False)


@pytest.mark.parametrize("rows", [1, 2, FEWEST - 1])
def test_with_few_creatives_even_a_good_model_beats_nothing(rows: int) -> None:
    targets = np.arange(rows, dtype=float)
    results = assessed(targets, targets + 0.01, ablations={"without text": -targets})
    assert results.verdict.unbeaten == ["mean"]
    assert f"creatives: {rows}," in results.verdict.verdict
    assert results.modalities.matter == []
    assert results.modalities.by == {"text": []}
    if rows == 1:
        assert "one creative" in results.scores["mae"].reason
    json.dumps(asdict(results), allow_nan=False)


def test_modalities_matter_if_the_score_is_worse_without_them() -> None:
    # The target is made from text and video, and audio is noise that the model ignores. The largest loss comes first.
    random = np.random.default_rng(0)
    text, video, noise = random.normal(size=(3, 300))
    targets = text + 2 * video + 0.3 * noise
    model = text + 2 * video
    ablations = {"without text": 2 * video, "without video": text, "without audio": model + 1e-3 * noise[::-1],
                 "text alone": text}  # fmt: skip
    flags = {name: np.ones(300, bool) for name in ("text", "video", "audio", "back_audio")}
    flags["audio"][:20] = flags["text"][:5] = False
    results = assessed(targets, model, ablations=ablations, present=flags)
    modalities = results.modalities
    assert (modalities.matter, modalities.not_shown) == (["video", "text"], ["audio"])
    assert modalities.not_judged == ["back_audio"]
    assert modalities.by["text"] == list(MORE_IS_BETTER)
    assert modalities.by["audio"] == []
    assert results.lacking == {"text": 5, "video": 0, "audio": 20, "back_audio": 0}
    assert results.lacking_all == 0
    assert results.verdict.beaten == ["mean"]


def test_with_two_modalities_one_alone_is_the_removal_of_the_other() -> None:
    random = np.random.default_rng(0)
    targets, noise = random.normal(size=(2, 50))
    flags = {name: np.ones(50, bool) for name in ("text", "video")}
    results = assessed(targets, targets, ablations={"text alone": noise, "video alone": targets}, present=flags)
    assert results.modalities.removals == {"text": "video alone", "video": "text alone"}
    assert results.modalities.matter == ["video"]


def test_the_verdict_names_each_baseline_that_is_not_beaten() -> None:
    def compared(low: float | None) -> Comparison:
        bounds = (low, 0.2, {"creatives": 50}, 200) if low is not None else (None, None, {"creatives": 50}, 0)
        return Comparison({}, {"r2": Interval(0.1, *bounds, 50, 0)})

    baselines = {"mean": compared(0.05), "ridge on text": compared(-0.01), "ridge on all": compared(None)}
    verdict = judge_baselines(baselines, rows=50)
    assert (verdict.beaten, verdict.unbeaten) == (["mean"], ["ridge on text", "ridge on all"])
    assert verdict.verdict.endswith(join_names(verdict.unbeaten))
    beaten = judge_baselines({"mean": compared(0.05)}, rows=50)
    assert (beaten.beaten, beaten.unbeaten) == (["mean"], [])
    assert judge_modalities(["text"], {}, 50).not_judged == ["text"]
    assert [join_names(list(names)).split(", ") for names in ("a", "ab", "abc")] == [
        ["a"], ["a and b"], ["a", "b and c"],
    ]  # fmt: skip


def test_residuals_are_by_fifths_of_the_targets_and_equal_targets_stay_together() -> None:
    # The constant 5 for targets 0 to 9 is 4.5 too high for the lowest two and 3.5 too low for the highest two.
    residuals = assessed(np.arange(10.0), np.full(10, 5.0)).residuals
    assert [part["rows"] for part in residuals] == [2] * 5
    assert [part["residual"].mean for part in residuals] == pytest.approx([4.5, 2.5, 0.5, -1.5, -3.5])
    parts = parts_of(np.array([0.0, 0, 0, 0, 1, 2, 3]))
    assert parts.sum(axis=0).tolist() == [1] * 7
    assert parts.any(axis=1).all()
    assert parts[0, :4].all()


@pytest.mark.parametrize(("changes", "message"), [
    ({"ids": ["a", "b", "b", "c"]}, "ids='b'"),
    ({"baselines": {}}, "baselines={}"),
    ({"baselines": {"mean": np.zeros(3)}}, r"mean: shape=\(3,\): .*\(4,\)"),
    ({"predictions": np.array([0, np.nan, 0, 0])}, "the model: 'c1' is nan"),
    ({"targets": np.array([0, 1, np.inf, 0])}, "targets: 'c2' is inf"),
    ({"ablations": {"mean": TARGETS}}, r"baselines, ablations: .*\['mean'\]"),
    ({"baselines": {"the model": TARGETS}}, r"baselines, ablations: .*\['the model'\]"),
    ({"present": {"text": np.ones(2, bool)}}, r"present\['text'\].shape=\(2,\): .*\(4,\)"),
    ({"ids": []}, "ids=0"),
])  # fmt: skip
def test_invalid_inputs_are_rejected(changes: dict[str, Any], message: str) -> None:
    arguments = {"targets": TARGETS, "predictions": TARGETS} | changes
    with pytest.raises(ValueError, match=message):
        assessed(**arguments)


# Baselines on embeddings


@pytest.mark.parametrize(("rows", "features"), [(60, 8), (20, 50), (30, 30)])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 100.0])
def test_ridge_agrees_with_scikit_learn_in_the_primal_and_the_dual_form(
    rows: int, features: int, penalty: float
) -> None:
    random = np.random.default_rng(0)
    x, validation, test = (3 + 2 * random.normal(size=(count, features)) for count in (rows, 10, 7))
    y = 5 + x[:, 0] + random.normal(size=rows)
    level, spread = x.mean(axis=0), x.std(axis=0)
    expected = Ridge(alpha=rows * penalty).fit((x - level) / spread, y)
    predictions = ridge(x, y, validation, np.zeros(10), test, penalties=[penalty])
    assert predictions == pytest.approx(expected.predict((test - level) / spread), rel=1e-8, abs=1e-8)


def test_ridge_weights_by_hand() -> None:
    # One feature -1, 1 and targets -2, 2: w = x'y / (x'x + 2 penalty) = 4 / (2 + 2 penalty).
    x, y = np.array([[-1.0], [1.0]]), np.array([-2.0, 2.0])
    assert ridge_weights(x, y, [0.0, 1.0])[:, 0].tolist() == pytest.approx([2, 1])
    three_copies = ridge_weights(np.hstack([x, x, x]), y, [1.0])  # dual form: three share the weight 12 / (6 + 2)
    assert three_copies.tolist() == [pytest.approx([0.5, 0.5, 0.5])]


def test_the_penalty_is_chosen_on_validation() -> None:
    # Without noise the smallest penalty is best; for targets that are unrelated to the features, the largest.
    random = np.random.default_rng(0)
    x, validation, test = random.normal(size=(3, 100, 20))
    weights = random.normal(size=20)
    assert ridge(x, x @ weights, validation, validation @ weights, test) == pytest.approx(test @ weights, abs=0.01)
    noise = random.normal(size=100)
    predictions = ridge(x, noise, validation, np.full(100, noise.mean()), test)
    assert predictions == pytest.approx(mean_baseline(noise, 100), abs=1e-3)


def test_features_that_are_constant_in_training_are_ignored() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 2)), random.normal(size=30)
    wide = np.column_stack([x, np.full(30, 0.1)])
    shifted = np.column_stack([x, np.full(30, 1e6)])
    assert ridge(wide, y, wide, y, shifted) == pytest.approx(ridge(x, y, x, y, x))
    only = np.full((30, 1), 0.1)
    assert ridge(only, y, only, y, only) == pytest.approx(mean_baseline(y, 30))


def test_frames_are_averaged_and_absent_modalities_are_flagged_zeros() -> None:
    values = [np.array([[1.0, 2.0], [3.0, 6.0]]), np.empty((0, 5)), np.array([5.0, 6.0], np.float32)]
    present = np.array([True, False, True])
    means = mean_embeddings(values, present)
    assert means.tolist() == [[2, 4], [0, 0], [5, 6]]
    assert mean_embeddings([None, None], np.zeros(2, bool), width=3).tolist() == [[0, 0, 0]] * 2
    joined = join_modalities({"text": means, "video": means[:, :1]}, {"text": present, "video": ~present})
    assert joined.tolist() == [[2, 4, 1, 2, 0], [0, 0, 0, 0, 1], [5, 6, 1, 5, 0]]


@pytest.mark.parametrize(("values", "present", "message"), [
    ([np.ones((1, 2)), np.ones((1, 3))], [True, True], r"values\[1\].shape=\(1, 3\): D is 3, but 2"),
    ([np.ones((0, 2))], [True], r"values\[0\].shape=\(0, 2\)"),
    ([np.ones((1, 2))], [False], "width=None"),
    ([np.array([[1.0, np.nan]])], [True], r"values\[0\]: not finite"),
    ([np.ones((1, 2))], [True, True], "values=1 rows, present=2 rows"),
])  # fmt: skip
def test_invalid_embeddings_are_rejected(values: list, present: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_embeddings(values, np.array(present))


def test_ridge_rejects_invalid_splits_and_penalties() -> None:
    x, y = np.ones((4, 2)), TARGETS
    with pytest.raises(ValueError, match="validation_x=0 rows, validation_y=0 targets"):
        ridge(x, y, x[:0], y[:0], x)
    with pytest.raises(ValueError, match=r"penalties=\(1.0, 0.0\)"):
        ridge(x, y, x, y, x, penalties=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"train_y.shape=\(4, 1\)"):
        ridge(x, y[:, None], x, y, x)


@pytest.mark.parametrize(
    ("rows", "predict", "is_better"),
    [
        (12, lambda targets: targets, True),  # perfect
        (6, lambda targets: targets, True),
        (5, lambda targets: targets, False),
        (1, lambda targets: targets, False),
        (12, lambda targets: -targets, False),  # always wrong
        (12, lambda targets: np.zeros(len(targets)), False),  # same as the baseline
        (12, lambda targets: np.full(len(targets), 9.0), False),
    ],
)
def test_verdicts_at_both_extremes(rows: int, predict: Callable, is_better: bool) -> None:
    targets = np.linspace(-1, 1, rows)
    verdict = assessed(targets, predict(targets), baselines={"mean": np.zeros(rows)}).verdict
    assert (verdict.beaten, verdict.unbeaten) == ((["mean"], []) if is_better else ([], ["mean"]))
    assert (f"creatives: {rows}" in verdict.verdict) == (rows < FEWEST)


def test_no_baseline_is_beaten_on_constant_targets() -> None:
    assert assessed(np.ones(12), np.ones(12)).verdict.unbeaten == ["mean"]
