"""Assess a model on test trials: its scores next to baselines, a null and a ceiling, and the verdict.

Scores are taken within each trial and averaged over trials; intervals are over songs and listeners. Correlations
after detrending decide, since two slow drifts correlate by themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

import numpy as np

from evaluation.controls import Null, agreement, detrended_correlation, mismatched_audio
from evaluation.explanations import Explanations
from evaluation.intervals import Interval, bootstrap
from evaluation.metrics.ccc import ccc
from evaluation.metrics.dtw import dtw
from evaluation.metrics.mae import mae
from evaluation.metrics.pearson import pearson
from evaluation.metrics.r2 import r2
from evaluation.metrics.rmse import rmse
from evaluation.metrics.scr_f1 import scr_f1
from evaluation.metrics.spearman import spearman
from evaluation.signal_baselines import BASELINES_WITHOUT_SOUND
from evaluation.trials import Trials
from evaluation.verdict import Verdict, decide

SAMPLES = 1000  # of the bootstrap
PERMUTATIONS = 999
ERROR_BIN_SECONDS = 2.0  # of the error against the time since onset
RESPONSES_IN = "uS"  # skin conductance responses are events of at least so many microsiemens

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Gain(Interval):
    """The model's gain over a baseline, in correlation after detrending."""

    over: str = field(kw_only=True)  # the baseline


@dataclass(frozen=True)
class Ceiling:
    """How well a model of the song could do at best, as far as its listeners agree."""

    leave_one_out: Interval  # of each trial with the mean of the song's other listeners
    split_half: float | None  # reliability; None where no song has enough listeners
    split_half_songs: int


@dataclass(frozen=True)
class ErrorOverTime:
    """RMSE in each ERROR_BIN_SECONDS since onset, over all trials."""

    seconds: list[float]  # start of each bin
    trials: list[int]  # with a frame in the bin
    rmse: dict[str, list[float | None]]  # of the model and the baselines; None in a bin without a frame that counts


@dataclass(frozen=True)
class ChannelResults:
    """The assessment of one channel."""

    interval_over: str
    model: dict[str, Interval]  # by score
    baselines: dict[str, dict[str, Interval]]  # by name and score
    gain: Gain  # over the best baseline without sound
    null: Null | None  # None: no trial has a frame to score
    ceiling: Ceiling
    verdict: Verdict
    over_time: ErrorOverTime
    explanations: Explanations | None = None  # None: not asked for


def assess(
    model: Trials,
    baselines: dict[str, np.ndarray],
    training_mean: np.ndarray,
    of_songs: dict[str, np.ndarray],
    scaled_targets: np.ndarray,
) -> ChannelResults:
    """Score one channel, with intervals and counts.

    Args:
        model: the test trials with the model's predictions.
        baselines: other predictions (N, T) of the same trials, by name, in the same unit.
        training_mean: what a constant would predict of each trial, (N,), in the same unit.
        of_songs: what the model predicts from each song, (frames of the song,).
        scaled_targets: (N, T) targets on one scale for all listeners, to compare listeners with each other.
    """
    over = interval_over(model)
    gain = gain_over_best_baseline(model, baselines, over)
    names, songs = np.unique(model.songs, return_inverse=True)
    null = mismatched_audio([of_songs[name] for name in names], songs, scaled_targets, model.mask, PERMUTATIONS)
    agreed = agreement(songs, scaled_targets, model.mask)
    leave_one_out = mean_interval(agreed.leave_one_out, model, over)
    return ChannelResults(
        interval_over=over,
        model=score(model, training_mean, over),
        baselines={
            name: score(model.with_prediction(prediction), training_mean, over)
            for name, prediction in baselines.items()
        },
        gain=gain,
        null=null,
        ceiling=Ceiling(leave_one_out, agreed.split_half, agreed.split_half_songs),
        verdict=decide(gain.low, null.p if null and len(names) > 1 else None, PERMUTATIONS, len(names)),
        over_time=error_over_time(model, baselines),
    )


def interval_over(trials: Trials) -> str:
    """Return what is resampled for an interval: songs and listeners, or the one of which there are several."""
    several = [kind for kind in ("songs", "listeners") if len(np.unique(getattr(trials, kind))) > 1]
    return "both" if len(several) == 2 else (several or ["songs"])[0]


def mean_interval(values: np.ndarray, trials: Trials, over: str) -> Interval:
    """Return the interval of the mean of values (N,), one per trial."""
    return cast(Interval, bootstrap(values, trials.songs, trials.listeners, over, SAMPLES))


def score(trials: Trials, training_mean: np.ndarray, over: str) -> dict[str, Interval]:
    """Return every score with its interval: as predicted, and after detrending (`detrended_...`)."""
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
    rows = np.stack(list(values.values()))
    intervals = cast(list[Interval], bootstrap(rows, trials.songs, trials.listeners, over, SAMPLES))
    return dict(zip(values, intervals, strict=True))


def gain_over_best_baseline(trials: Trials, baselines: dict[str, np.ndarray], over: str) -> Gain:
    """Return the model's gain over the best baseline without sound.

    A prediction without any shape correlates with nothing, 0. The best is the best on these very trials, which is hard
    on the model rather than kind.
    """

    def correlation(prediction: np.ndarray) -> np.ndarray:
        return detrended_correlation(prediction, trials.target, trials.mask)

    scores = {name: correlation(baselines[name]) for name in BASELINES_WITHOUT_SOUND}
    best = max(scores, key=lambda name: np.nan_to_num(scores[name]).mean())
    gain = mean_interval(correlation(trials.prediction) - scores[best], trials, over)
    return Gain(**asdict(gain), over=best)


def error_over_time(trials: Trials, baselines: dict[str, np.ndarray]) -> ErrorOverTime:
    """Return the RMSE over time of the model and of the baselines without sound."""
    frames_of_bin = max(round(ERROR_BIN_SECONDS * trials.frame_rate), 1)
    bins = np.arange(trials.mask.shape[1]) // frames_of_bin  # (T,)
    count = np.bincount(bins, trials.mask.sum(axis=0))
    trials_of_bin = [int(trials.mask[:, bins == each].any(axis=1).sum()) for each in range(len(count))]
    predictions = {"model": trials.prediction} | {name: baselines[name] for name in BASELINES_WITHOUT_SOUND}
    errors = {}
    for name, prediction in predictions.items():
        squares = np.where(trials.mask, prediction - trials.target, 0.0) ** 2
        total = np.bincount(bins, squares.sum(axis=0))
        errors[name] = [float(np.sqrt(each / n)) if n else None for each, n in zip(total, count, strict=True)]
    seconds = (np.arange(len(count)) * frames_of_bin / trials.frame_rate).tolist()
    return ErrorOverTime(seconds, trials_of_bin, errors)


def longest_of_song(predictions: Sequence[np.ndarray], songs: Sequence[str]) -> dict[str, np.ndarray]:
    """What a model predicts from each song: the longest of the predictions for its trials."""
    longest: dict[str, np.ndarray] = {}
    for prediction, song in zip(predictions, songs, strict=True):
        if song not in longest or len(prediction) > len(longest[song]):
            longest[song] = prediction
    return longest
