"""All that is said of some test trials: the model beside its baselines, its null, its ceiling, and the verdict.

Scores are taken within each trial and averaged over trials; intervals are over songs and listeners. Correlations
after detrending decide, since two slow drifts correlate by themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evaluation.controls import ceiling, detrended_correlation, mismatched_audio
from evaluation.intervals import Interval, bootstrap
from evaluation.metrics.ccc import ccc
from evaluation.metrics.dtw import dtw
from evaluation.metrics.mae import mae
from evaluation.metrics.pearson import pearson
from evaluation.metrics.r2 import r2
from evaluation.metrics.rmse import rmse
from evaluation.metrics.scr_f1 import scr_f1
from evaluation.metrics.spearman import spearman
from evaluation.signal_baselines import HEARS_NOTHING
from evaluation.trials import Trials
from evaluation.verdict import decide

SAMPLES = 1000  # of the bootstrap
PERMUTATIONS = 999
ERROR_BIN_SECONDS = 2.0  # of the error against the time since onset
RESPONSES_IN = "uS"  # skin conductance responses are events of at least so many microsiemens

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def assess(
    model: Trials,
    baselines: dict[str, np.ndarray],
    training_mean: np.ndarray,
    of_songs: dict[str, np.ndarray],
    scaled_targets: np.ndarray,
) -> dict[str, Any]:
    """Numbers of one channel for `metrics.json`, all of them with intervals and counts.

    Args:
        model: the test trials with the model's predictions.
        baselines: other predictions (N, T) of the same trials, by name, in the same unit.
        training_mean: what a constant would say of each trial, (N,), in the same unit.
        of_songs: what the model predicts from each song, (frames of the song,).
        scaled_targets: (N, T) targets on one scale for all listeners, to compare listeners with each other.
    """
    over = interval_over(model)
    scores = {"model": score(model, training_mean, over)}
    others = {name: score(model.with_prediction(made), training_mean, over) for name, made in baselines.items()}
    best, gain = gain_over_deaf(model, baselines, over)
    names, songs = np.unique(model.songs, return_inverse=True)
    null = mismatched_audio([of_songs[name] for name in names], songs, scaled_targets, model.mask, PERMUTATIONS)
    agreement = ceiling(songs, scaled_targets, model.mask)
    decision = decide(gain.low, null.p if null and len(names) > 1 else None, PERMUTATIONS, len(names))
    return {
        "interval_over": over,
        "model": scores["model"],
        "baselines": others,
        "gain": {"over": best, **asdict(gain)},
        "null": null.record() if null else None,
        "ceiling": {
            "leave_one_out": asdict(bootstrap(agreement.leave_one_out, model.songs, model.listeners, over, SAMPLES)),
            "split_half": agreement.split_half,
            "split_half_songs": agreement.split_half_songs,
        },
        "verdict": decision.record(),
        "over_time": error_over_time(model, baselines),
    }


def interval_over(trials: Trials) -> str:
    """What is drawn anew for an interval: songs and listeners, or the one of which there are several."""
    several = [kind for kind in ("songs", "listeners") if len(np.unique(getattr(trials, kind))) > 1]
    return "both" if len(several) == 2 else (several or ["songs"])[0]


def score(trials: Trials, training_mean: np.ndarray, over: str) -> dict[str, dict[str, Any]]:
    """Every score with its interval: as predicted, and after detrending (`detrended_...`)."""
    rate = trials.frame_rate
    raw: dict[str, Score] = {
        "rmse": rmse.per_trial,
        "mae": mae.per_trial,
        "pearson": pearson.per_trial,
        "spearman": spearman.per_trial,
        "ccc": ccc.per_trial,
        "r2_trial_mean": r2.per_trial,
        "r2_train_mean": lambda p, y, m: r2.per_trial(p, y, m, reference="train_mean", train_mean=training_mean),
        "dtw": lambda p, y, m: dtw.per_trial(p, y, m, frame_rate=rate),
    }
    if trials.unit == RESPONSES_IN:
        raw["scr_f1"] = lambda p, y, m: scr_f1.per_trial(p, y, m, frame_rate=rate)
    straight = trials.detrended()
    values = {name: each(trials.prediction, trials.target, trials.mask) for name, each in raw.items()}
    for name in ("rmse", "pearson", "spearman", "ccc"):
        values[f"detrended_{name}"] = raw[name](straight.prediction, straight.target, straight.mask)
    intervals = bootstrap(np.stack(list(values.values())), trials.songs, trials.listeners, over, SAMPLES)
    return {name: asdict(interval) for name, interval in zip(values, intervals, strict=True)}


def gain_over_deaf(trials: Trials, baselines: dict[str, np.ndarray], over: str) -> tuple[str, Interval]:
    """The best baseline that hears no music, and the model's gain over it in correlation after detrending.

    A prediction without any shape correlates with nothing, 0. The best is the best on these very trials, which is hard
    on the model rather than kind.
    """

    def correlation(prediction: np.ndarray) -> np.ndarray:
        return detrended_correlation(prediction, trials.target, trials.mask)

    deaf = {name: correlation(baselines[name]) for name in HEARS_NOTHING}
    best = max(deaf, key=lambda name: np.nan_to_num(deaf[name]).mean())
    values = correlation(trials.prediction) - deaf[best]
    return best, bootstrap(values, trials.songs, trials.listeners, over, SAMPLES)


def error_over_time(trials: Trials, baselines: dict[str, np.ndarray]) -> dict[str, Any]:
    """RMSE of the model and of what hears no music in each ERROR_BIN_SECONDS since onset, over all trials.

    Returns the start of each bin in seconds, the trials with a frame in it, and who erred how much; None in a bin
    without a frame that counts.
    """
    frames_of_bin = max(round(ERROR_BIN_SECONDS * trials.frame_rate), 1)
    bins = np.arange(trials.mask.shape[1]) // frames_of_bin  # (T,)
    count = np.bincount(bins, trials.mask.sum(axis=0))
    heard_by = [int(trials.mask[:, bins == each].any(axis=1).sum()) for each in range(len(count))]
    errors = {}
    for who, made in {"model": trials.prediction, **{name: baselines[name] for name in HEARS_NOTHING}}.items():
        squares = np.where(trials.mask, made - trials.target, 0.0) ** 2
        total = np.bincount(bins, squares.sum(axis=0))
        errors[who] = [float(np.sqrt(each / n)) if n else None for each, n in zip(total, count, strict=True)]
    seconds = (np.arange(len(count)) * frames_of_bin / trials.frame_rate).tolist()
    return {"seconds": seconds, "trials": heard_by, "rmse": errors}


def longest_of_song(predictions: Sequence[np.ndarray], songs: Sequence[str]) -> dict[str, np.ndarray]:
    """What a model predicts from each song: the longest of the predictions for its trials."""
    longest: dict[str, np.ndarray] = {}
    for prediction, song in zip(predictions, songs, strict=True):
        if song not in longest or len(prediction) > len(longest[song]):
            longest[song] = prediction
    return longest
