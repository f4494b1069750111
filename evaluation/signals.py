"""Assess a model on test trials: its scores, baselines, a permutation test, a ceiling and the verdict.

Scores are computed within each trial and averaged over trials; intervals are over songs and listeners. The verdict
uses correlations after detrending, because any two slow drifts correlate.
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

SAMPLES = 1000  # bootstrap resamples
PERMUTATIONS = 999
ERROR_BIN_SECONDS = 2.0  # width of the bins of error over time since onset
RESPONSES_IN = "uS"  # scr_f1 needs microsiemens: its threshold for a response is absolute

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Gain(Interval):
    """The model's gain over a baseline, in correlation after detrending."""

    over: str = field(kw_only=True)  # the baseline


@dataclass(frozen=True)
class Ceiling:
    """The best score that a model of the song can reach, as far as its listeners agree."""

    leave_one_out: Interval  # correlation of each trial with the mean of the song's other listeners
    split_half: float | None  # reliability; None if no song has enough listeners
    split_half_songs: int


@dataclass(frozen=True)
class ErrorOverTime:
    """RMSE over all trials, in bins of ERROR_BIN_SECONDS since onset."""

    seconds: list[float]  # start of each bin
    trials: list[int]  # with a frame in the bin
    rmse: dict[str, list[float | None]]  # of the model and the baselines; None: no frame of the bin counts


@dataclass(frozen=True)
class ChannelResults:
    """The assessment of one channel."""

    interval_over: str
    model: dict[str, Interval]  # score -> interval
    baselines: dict[str, dict[str, Interval]]  # name -> score -> interval
    gain: Gain  # over the best baseline without sound
    null: Null | None  # None: no trial can be scored
    ceiling: Ceiling
    verdict: Verdict
    over_time: ErrorOverTime
    explanations: Explanations | None = None  # None: not requested


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
        baselines: name -> predictions (N, T) of the same trials, in the same unit.
        training_mean: (N,), the constant prediction for each trial, in the same unit.
        of_songs: song -> the model's prediction, (frames of the song,).
        scaled_targets: (N, T), targets on one scale for all listeners, to compare listeners with each other.
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
    """Return the clusters of the intervals: "both", or the one of songs and listeners with more than one member."""
    several = [name for name in ("songs", "listeners") if len(np.unique(getattr(trials, name))) > 1]
    return "both" if len(several) == 2 else (several or ["songs"])[0]


def mean_interval(values: np.ndarray, trials: Trials, over: str) -> Interval:
    """Return the interval of the mean of values (N,), one per trial."""
    return cast(Interval, bootstrap(values, trials.songs, trials.listeners, over, SAMPLES))


def score(trials: Trials, training_mean: np.ndarray, over: str) -> dict[str, Interval]:
    """Return every score with its interval: of the signals, and after detrending (`detrended_...`)."""
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
    """Return the model's gain over the best baseline without sound, in correlation after detrending."""

    def correlation(prediction: np.ndarray) -> np.ndarray:
        return detrended_correlation(prediction, trials.target, trials.mask)

    scores = {name: correlation(baselines[name]) for name in BASELINES_WITHOUT_SOUND}
    # The best on the test trials themselves, which can only make the verdict stricter.
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
    """Return the longest prediction for each song: trials of one song differ only in length."""
    longest: dict[str, np.ndarray] = {}
    for prediction, song in zip(predictions, songs, strict=True):
        if song not in longest or len(prediction) > len(longest[song]):
            longest[song] = prediction
    return longest
