"""Metrics of signals, compared with results by hand, textbook loops and SciPy; as functions and `evaluate` modules."""

import math
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation import signals
from evaluation.metrics.ccc import ccc
from evaluation.metrics.dtw import dtw
from evaluation.metrics.mae import mae
from evaluation.metrics.pearson import pearson
from evaluation.metrics.r2 import r2
from evaluation.metrics.rmse import rmse
from evaluation.metrics.scr_f1 import scr_f1
from evaluation.metrics.spearman import spearman
from evaluation.trials import Trials, detrend
from evaluation.validation import validation_scores
from launch.run import load_task
from tasks import TASKS
from tests.conftest import REPOSITORY
from tests.helpers.metric_modules import FOLDER, OF_CLASSES, OF_DETECTION, load, module_of, result_of_card

METRICS = {
    module.__name__.rpartition(".")[2]: module.per_trial
    for module in (rmse, mae, pearson, spearman, ccc, r2, dtw, scr_f1)
}
OPTIONS = {"dtw": {"frame_rate": 4.0, "band_seconds": 1.0}, "scr_f1": {"frame_rate": 4.0}}
every_metric = pytest.mark.parametrize("name", METRICS)
MODULES = sorted(FOLDER.glob("*/*.py"))


def score(name: str, prediction: list, target: list, mask: list | None = None, **options: object) -> float:
    """Return one metric of one trial."""
    prediction, target = np.array([prediction], float), np.array([target], float)
    mask = np.ones(target.shape, bool) if mask is None else np.array([mask], bool)
    (value,) = METRICS[name](prediction, target, mask, **OPTIONS.get(name, {}) | options)
    return value


def random_trials(trials: int = 30, frames: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return similar predictions and targets, and a mask that leaves out a tenth of the frames."""
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(trials, frames)).cumsum(axis=1)
    return targets + rng.normal(scale=2, size=(trials, frames)), targets, rng.random((trials, frames)) < 0.9


def test_every_metric_has_a_folder_and_a_card() -> None:
    assert {path.stem for path in MODULES} == {*METRICS, *OF_DETECTION, *OF_CLASSES}
    assert all((path.parent / "README.md").is_file() for path in MODULES)


def test_every_module_is_used_for_validation_or_for_the_test() -> None:
    validated = {module_of(name) for task in TASKS for name in load_task(task).validation_metrics if name != "loss"}
    scores = {path.stem for path in MODULES if getattr(signals, path.stem, None) in vars(signals).values()}
    assert validated | scores == {path.stem for path in MODULES}
    assert validated >= {*OF_DETECTION, *OF_CLASSES}


@pytest.mark.parametrize(
    ("name", "prediction", "target", "expected"),
    [
        ("rmse", [2, 2, 4], [1, 2, 3], np.sqrt(2 / 3)),
        ("mae", [2, 2, 5], [1, 2, 3], 1.0),
        ("pearson", [1, 2, 4], [1, 2, 3], 3 / np.sqrt(28 / 3)),
        ("pearson", [3, 2, 1], [1, 2, 3], -1.0),
        ("spearman", [1, 8, 27, 64], [1, 2, 3, 4], 1.0),
        ("spearman", [1, 3, 2, 4], [1, 2, 3, 4], 0.8),  # 1 - 6 * 2 / (4 * 15)
        ("spearman", [1, 1, 2], [1, 2, 3], np.sqrt(3) / 2),  # ranks 1.5 1.5 3 and 1 2 3
        ("ccc", [2, 3, 4], [1, 2, 3], 4 / 7),  # 2 * 2/3 / (2/3 + 2/3 + 1)
        ("ccc", [1, 2, 4], [1, 2, 3], 6 / 7),
        ("ccc", [0.1, 0.1, 0.1], [1, 2, 3], 0.0),
        ("r2", [1, 2, 4], [1, 2, 3], 0.5),  # 1 - 1 / 2
        ("r2", [2, 2, 2], [1, 2, 3], 0.0),
        ("dtw", [0, 0, 1, 0], [0, 1, 0, 0], 0.0),  # one frame later
        ("dtw", [1, 1, 1], [0, 0, 0], 1.0),
        ("scr_f1", [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], 1.0),  # a quarter of a second apart
        ("scr_f1", [0, 1, 0, 0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0, 0, 0], 2 / 3),  # one hit, one false alarm
        ("scr_f1", [0, 0, 0, 0, 0], [0, 0, 0, 1, 0], 0.0),
    ],
)
def test_known_answers(name: str, prediction: list, target: list, expected: float) -> None:
    assert score(name, prediction, target) == pytest.approx(expected)


def test_correlations_agree_with_scipy() -> None:
    predictions, targets, mask = random_trials()
    predictions = predictions.round()  # ties
    for name, peer in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        expected = [peer(p[m], t[m]).statistic for p, t, m in zip(predictions, targets, mask, strict=True)]
        np.testing.assert_allclose(METRICS[name](predictions, targets, mask), expected)


def test_r2_against_the_training_mean_by_hand() -> None:
    assert score("r2", [2, 2, 2], [1, 2, 3], reference="train_mean", train_mean=0.0) == pytest.approx(1 - 2 / 14)
    both = METRICS["r2"](
        np.full((2, 3), 2.0),
        np.array([[1, 2, 3.0]] * 2),
        np.ones((2, 3), bool),
        reference="train_mean",
        train_mean=np.array([2.0, 0.0]),  # of each trial's listener
    )
    assert both == pytest.approx([0, 1 - 2 / 14])


@pytest.mark.parametrize("options", [{"reference": "mean"}, {"reference": "train_mean"}, {"train_mean": 1.0}])
def test_r2_rejects_an_unknown_missing_or_unused_mean(options: dict) -> None:
    with pytest.raises(ValueError, match="reference="):
        score("r2", [1, 2], [1, 3], **options)


@every_metric
def test_masked_frames_are_ignored(name: str) -> None:
    predictions, targets, mask = random_trials()
    expected = METRICS[name](predictions, targets, mask, **OPTIONS.get(name, {}))
    assert np.isfinite(expected).all()
    predictions, targets = np.where(mask, predictions, np.nan), np.where(mask, targets, -np.inf)
    scores = METRICS[name](predictions, targets, mask, **OPTIONS.get(name, {}))
    np.testing.assert_array_equal(scores, expected)


@every_metric
def test_padding_changes_nothing(name: str) -> None:
    predictions, targets, mask = random_trials()
    expected = METRICS[name](predictions, targets, mask, **OPTIONS.get(name, {}))
    longer = (np.pad(array, ((0, 0), (0, 7))) for array in (predictions, targets, mask))
    np.testing.assert_allclose(METRICS[name](*longer, **OPTIONS.get(name, {})), expected, rtol=1e-12)


@every_metric
def test_a_fully_masked_trial_is_undefined(name: str) -> None:
    assert np.isnan(score(name, [1, 2, 3], [1, 2, 4], [False] * 3))


@pytest.mark.parametrize("name", ["pearson", "spearman", "ccc", "r2"])
def test_a_constant_target_with_float32_rounding_noise_is_undefined(name: str) -> None:
    target = np.float32(5.1) * (1 + np.array([0, 1, 0, -1, 1, 0]) * np.finfo(np.float32).eps / 2)
    assert np.isnan(score(name, [1, 2, 3, 5, 4, 6], target))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_constant_prediction_has_no_correlation(name: str) -> None:
    assert np.isnan(score(name, [0.1] * 4, [1, 2, 3, 4]))


varied = st.lists(st.integers(-1000, 1000), min_size=3, max_size=20).filter(lambda values: len(set(values)) > 1)


@given(varied, st.floats(0.01, 100), st.floats(-100, 100), st.randoms(use_true_random=False))
def test_correlations_ignore_shift_and_scale(target: list, scale: float, shift: float, random: object) -> None:
    prediction = random.sample(target, len(target))
    for name in ("pearson", "spearman"):
        moved = score(name, [scale * value + shift for value in prediction], target)
        assert moved == pytest.approx(score(name, prediction, target), abs=1e-6)
        turned = score(name, [-value for value in prediction], target)
        assert turned == pytest.approx(-score(name, prediction, target), abs=1e-9)


@given(varied, st.randoms(use_true_random=False), st.data())
def test_masked_frames_count_like_absent_frames(target: list, random: object, data: st.DataObject) -> None:
    prediction = random.sample(target, len(target))
    mask = data.draw(st.lists(st.booleans(), min_size=len(target), max_size=len(target)))
    for name in ("rmse", "mae", "pearson", "spearman", "ccc", "r2"):
        kept = [
            [value for value, counts in zip(values, mask, strict=True) if counts] for values in (prediction, target)
        ]
        np.testing.assert_allclose(score(name, prediction, target, mask), score(name, *kept), atol=1e-9)


# Dynamic time warping


def textbook_dtw(prediction: np.ndarray, target: np.ndarray, times: np.ndarray, band: int) -> float:
    """Compute the symmetric form of Sakoe and Chiba, one cell at a time."""
    n = len(times)
    g = np.full((n + 1, n + 1), np.inf)
    g[0, 0] = 0
    for i in range(1, n + 1):
        for j in range(1, n + 1):
            if abs(times[i - 1] - times[j - 1]) <= band:
                d = abs(prediction[i - 1] - target[j - 1])
                g[i, j] = min(g[i - 1, j] + d, g[i - 1, j - 1] + 2 * d, g[i, j - 1] + d)
    return g[n, n] / (2 * n)


@pytest.mark.parametrize("band", [0, 1, 4, 100])
@pytest.mark.parametrize("gaps", [False, True])
def test_dtw_equals_the_textbook_loop(band: int, gaps: bool) -> None:
    predictions, targets, mask = random_trials(12, 25)
    if not gaps:
        mask = np.arange(25) < np.arange(2, 26, 2)[:, None]
    expected = [
        textbook_dtw(p[m], t[m], np.flatnonzero(m), band) for p, t, m in zip(predictions, targets, mask, strict=True)
    ]
    values = dtw.per_trial(predictions, targets, mask, frame_rate=4.0, band_seconds=band / 4)
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_dtw_is_at_most_the_mean_absolute_error_and_falls_with_the_band() -> None:
    arrays = random_trials()
    bands = [dtw.per_trial(*arrays, frame_rate=4.0, band_seconds=seconds) for seconds in (0, 0.25, 1, 10)]
    np.testing.assert_allclose(bands[0], mae.per_trial(*arrays))
    assert all((wider <= narrower).all() for narrower, wider in zip(bands, bands[1:], strict=False))
    assert (bands[-1] > 0).all()


def test_dtw_tolerates_only_lags_within_its_band() -> None:
    time = np.arange(120) / 4  # s
    bump = np.exp(-((time - 15) ** 2) / 4)
    later = np.exp(-((time - 16.5) ** 2) / 4)
    assert score("dtw", later, bump, band_seconds=2.0) < 0.02 * score("mae", later, bump)
    assert score("dtw", later, bump, band_seconds=0.5) > 0.5 * score("mae", later, bump)


# Skin conductance responses


def responses(onsets: list[float], amplitudes: list[float], rate: float = 8.0, seconds: float = 60.0) -> np.ndarray:
    """Simulate responses (rise 0.75 s, decay 2 s) on a falling level, in uS."""
    time = np.arange(int(seconds * rate)) / rate
    signal = 5 - 0.005 * time
    for onset, amplitude in zip(onsets, amplitudes, strict=True):
        after = np.clip(time - onset, 0, None)
        shape = np.exp(-after / 2) - np.exp(-after / 0.75)
        signal = signal + amplitude * shape / 0.33
    return signal


def test_peaks_of_simulated_responses_are_detected() -> None:
    onsets = [5.0, 20.0, 40.0]
    peaks = scr_f1.peaks(responses(onsets, [0.3, 0.2, 0.5])[None], np.ones((1, 480), bool), threshold=0.05)
    assert peaks[0, :3] / 8 == pytest.approx([onset + 1.2 for onset in onsets], abs=0.15)
    assert np.isinf(peaks[0, 3:]).all()


def test_small_responses_do_not_count_and_a_lag_beyond_the_tolerance_is_a_miss() -> None:
    target = responses([5, 20, 40, 57], [0.3, 0.2, 0.5, 0.03])
    prediction = responses([5.5, 20.25, 43], [0.1, 0.9, 0.5])
    arrays = (prediction[None], target[None], np.ones((1, 480), bool))
    scores = scr_f1.event_scores(*arrays, frame_rate=8.0, threshold=0.05, tolerance_seconds=1.0)
    assert {name: value[0] for name, value in scores.items()} == pytest.approx(
        {"scr_f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3}
    )
    wide = scr_f1.event_scores(*arrays, frame_rate=8.0, threshold=0.05, tolerance_seconds=3.5)
    assert wide["scr_f1"] == 1
    low = scr_f1.event_scores(*arrays, frame_rate=8.0, threshold=0.01, tolerance_seconds=3.5)
    assert low["recall"] == 3 / 4


def test_event_scores_are_undefined_only_if_they_would_divide_by_0() -> None:
    flat, event = np.zeros(10), np.array([0, 0, 0, 1, 0, 0, 0, 0, 0, 0.0])
    arrays = np.array([flat, flat, event]), np.array([flat, event, flat]), np.ones((3, 10), bool)
    scores = scr_f1.event_scores(*arrays, frame_rate=4.0)
    np.testing.assert_array_equal(scores["scr_f1"], [np.nan, 0, 0])
    np.testing.assert_array_equal(scores["precision"], [np.nan, np.nan, 0])
    np.testing.assert_array_equal(scores["recall"], [np.nan, 0, np.nan])


def test_a_rise_across_a_gap_is_no_response() -> None:
    mask = [True, True, False, False, True, True]
    assert np.isnan(score("scr_f1", [0, 0, 5, 0, 9, 8], [0, 0, 0, 0, 9, 8], mask))


event_times = st.lists(st.integers(0, 12), max_size=5, unique=True).map(sorted)


@settings(max_examples=200)
@given(event_times, event_times, st.integers(0, 4))
def test_no_other_pairing_of_events_has_more_hits(a: list[int], b: list[int], tolerance: int) -> None:
    def most(a: list[int], b: list[int]) -> int:
        if not a:
            return 0
        pairs = [1 + most(a[1:], b[:k] + b[k + 1 :]) for k, time in enumerate(b) if abs(a[0] - time) <= tolerance]
        return max([most(a[1:], b), *pairs])

    hits = scr_f1.matches(np.array([[*a, np.inf]]), np.array([[*b, np.inf]]), tolerance)
    assert hits[0] == most(a, b)


# As modules of `evaluate`


def ragged() -> dict[str, list[list]]:
    """Return six trials of different lengths; the last one is constant, and the one before is fully masked."""
    predictions, targets, mask = random_trials(6, 30)
    targets[5], mask[4] = 3.0, False
    predictions[5] = 3.0
    lengths = [30, 12, 25, 30, 9, 14]
    columns = {"predictions": predictions, "references": targets, "mask": mask}
    return {name: [row[:n].tolist() for row, n in zip(c, lengths, strict=True)] for name, c in columns.items()}


@every_metric
def test_a_loaded_module_returns_the_mean_over_trials_and_counts_undefined_ones(name: str, tmp_path: Path) -> None:
    columns = ragged()
    scores = [
        score(name, *trial)
        for trial in zip(columns["predictions"], columns["references"], columns["mask"], strict=True)
    ]
    result = load(name, tmp_path).compute(**columns, **OPTIONS.get(name, {}))
    assert result[name] == pytest.approx(np.nanmean(scores))
    assert (result["trials"], result["undefined"]) == (np.isfinite(scores).sum(), np.isnan(scores).sum())
    assert result["undefined"] == (1 if name in ("rmse", "mae", "dtw") else 2)


@every_metric
def test_a_mean_without_defined_trials_is_none_and_not_nan(name: str, tmp_path: Path) -> None:
    result = load(name, tmp_path).compute(
        predictions=[[1.0, 2.0], []], references=[[1.0, 3.0], []], mask=[[False] * 2, []], **OPTIONS.get(name, {})
    )
    assert (result[name], result["trials"], result["undefined"]) == (None, 0, 2)
    assert not any(isinstance(value, float) for value in result.values())


@every_metric
def test_the_example_of_the_card_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = result_of_card(name, monkeypatch)
    assert list(result)[:3] == [name, "trials", "undefined"]


def test_a_module_rejects_predictions_that_are_not_finite_and_lengths_that_differ(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="predictions: 1 frames of 1 trials"):
        load("rmse", tmp_path).compute(predictions=[[1, np.nan]], references=[[1, 2]], mask=[[1, 1]])
    with pytest.raises(ValueError, match=r"references\[0\]=3 frames, mask\[0\]=2 frames"):
        load("rmse", tmp_path).compute(predictions=[[1, 2]], references=[[1, 2, 3]], mask=[[1, 1]])
    with pytest.raises(ValueError, match="predictions=2 rows, references=1 rows, mask=1 rows"):
        load("rmse", tmp_path).compute(predictions=[[1], [2]], references=[[1]], mask=[[1]])


ALONE = """
import socket, sys

def no_network(*_):
    raise OSError("network access")

socket.socket.connect = no_network
from evaluation.validation import validation_scores
print(validation_scores(["rmse", "pearson"], predictions=[[1.0, 2, 4]], references=[[1.0, 2, 3]], mask=[[1, 1, 1]]))
"""


@pytest.mark.slow
def test_processes_that_start_together_load_a_module_without_network_or_cache(tmp_path: Path) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", ALONE]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 3
    assert outputs == [f"{{'rmse': {math.sqrt(1 / 3)}, 'pearson': {score('pearson', [1, 2, 4], [1, 2, 3])}}}\n"] * 3
    assert not list(tmp_path.rglob("*.arrow*"))


def compute_half(process: int, folder: str, results: multiprocessing.Queue) -> None:
    """Compute every metric over half of the trials in batches, as one of two processes."""
    for name in METRICS:
        module = load(name, folder, num_process=2, process_id=process, experiment_id="two", timeout=600)
        columns = {key: rows[process::2] for key, rows in ragged().items()}
        for start in range(0, 3, 2):
            module.add_batch(**{key: rows[start : start + 2] for key, rows in columns.items()})
        results.put((name, process, module.compute(**OPTIONS.get(name, {}))))


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=compute_half, args=(rank, str(tmp_path), queue)) for rank in range(2)]
    for process in processes:
        process.start()
    results = {
        (name, rank): result for name, rank, result in (queue.get(timeout=600) for _ in range(2 * len(METRICS)))
    }
    for process in processes:
        process.join(timeout=600)
        assert process.exitcode == 0
    for name in METRICS:
        alone = load(name, tmp_path).compute(**ragged(), **OPTIONS.get(name, {}))
        assert results[name, 1] is None
        assert results[name, 0] == pytest.approx(alone), name


# Trials


def trials() -> Trials:
    """Return two trials of 3 and 4 frames."""
    return Trials.pad(
        predictions=[np.array([1, 2, 4.0]), np.array([0, 1, 0, 1.0])],
        targets=[np.array([1, 2, 3.0]), np.array([np.nan, 1, 2, 3])],
        masks=[np.ones(3, bool), np.array([False, True, True, True])],
        songs=["a", "b"],
        listeners=["x", "x"],
        frame_rate=4.0,
        unit="uS",
    )


def test_trials_are_padded_with_masked_frames() -> None:
    np.testing.assert_array_equal(trials().mask, [[True, True, True, False], [False, True, True, True]])
    np.testing.assert_array_equal(trials().prediction, [[1, 2, 4, 0], [0, 1, 0, 1]])
    assert trials().songs.tolist() == ["a", "b"]
    assert len(trials()) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.full((2, 4), np.nan)}, "predicted: 6 frames of 2 trials"),
        ({"target": np.full((2, 4), np.inf)}, "target: 6 frames of 2 trials"),
        ({"prediction": np.zeros((2, 3))}, r"'prediction': \(2, 3\), 'target': \(2, 4\)"),
        ({"mask": np.ones((2, 4))}, "mask.dtype=float64"),
        ({"songs": np.array(["a"])}, r"songs.shape=\(1,\), listeners.shape=\(2,\)"),
        ({"frame_rate": 0.0}, "frame_rate=0.0"),
    ],
)
def test_inconsistent_trials_are_rejected(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(trials(), **change)


def test_empty_trials_and_different_numbers_of_frames_are_rejected() -> None:
    with pytest.raises(ValueError, match="trials=0"):
        Trials.pad([], [], [], [], [], 4.0, "uS")
    with pytest.raises(ValueError, match=r"song=a, listener=x: .*\[2, 3, 3\]"):
        Trials.pad([np.zeros(2)], [np.zeros(3)], [np.ones(3, bool)], ["a"], ["x"], 4.0, "uS")


def test_a_replaced_prediction_is_checked_too() -> None:
    with pytest.raises(ValueError, match="predicted: 1 frames of 1 trials"):
        trials().with_prediction(np.array([[np.inf, 0, 0, np.nan], [np.nan, 0, 0, 0]]))
    assert (trials().with_prediction(np.ones((2, 4))).prediction == 1).all()


def test_detrending_subtracts_the_least_squares_line_of_the_frames_that_count() -> None:
    values, _, mask = random_trials()
    for row, counts, rest in zip(values, mask, detrend(np.where(mask, values, np.nan), mask), strict=True):
        time = np.flatnonzero(counts)
        line = np.polyval(np.polyfit(time, row[counts], 1), time)
        np.testing.assert_allclose(rest[counts], row[counts] - line, atol=1e-9)
        assert (rest[~counts] == 0).all()


def no_dust(limit: float) -> st.SearchStrategy[float]:
    """Return floats without denormals: in float32, values with a slope of 1e-44 are not on a straight line."""
    return st.floats(-limit, limit).filter(lambda value: value == 0 or abs(value) > 1e-30)


@given(no_dust(50), no_dust(2), st.lists(st.booleans(), min_size=1, max_size=30))
def test_a_straight_line_detrends_to_exact_zeros(level: float, slope: float, mask: list[bool]) -> None:
    line = (level + slope * np.arange(len(mask))).astype(np.float32)
    assert (detrend(line[None], np.array([mask])) == 0).all()


def test_a_straight_line_has_no_correlation_after_detrending() -> None:
    time = np.arange(20) / 4
    targets = np.sin(time)[None]
    ramp = Trials.pad(5 + 0.3 * time[None], targets, np.ones((1, 20), bool), ["a"], ["x"], 4.0, "uS").detrended()
    assert np.isnan(pearson.per_trial(ramp.prediction, ramp.target, ramp.mask)).all()
    assert not np.isnan(pearson.per_trial(ramp.target, ramp.target, ramp.mask)).any()


def test_the_validation_scores_of_a_diverged_model_are_nan() -> None:
    predictions = np.array([[0.1, np.nan, 0.3]])
    inputs = {"predictions": predictions, "references": np.ones((1, 3)), "mask": np.ones((1, 3), bool)}
    scores = validation_scores(("rmse", "pearson"), **inputs)
    assert scores.keys() == {"rmse", "pearson"}
    assert np.isnan(list(scores.values())).all()
