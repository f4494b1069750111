"""Explain models of a sound: the weights of a ridge regression over lag, and occlusion of bands and moments.

Ridge regression has a temporal response function: its weights over lag. A network has none, so parts of its input are
replaced by the training mean, and the change of its predictions is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from evaluation.controls import detrended_correlation
from evaluation.descriptors import DESCRIPTORS
from evaluation.intervals import Interval, bootstrap
from evaluation.signal_baselines import Gram, TrialsWithSound, best_penalty, ridge_scaling, solve, song_grams, total
from evaluation.trials import pad_rows

RESAMPLES = 200  # of the training songs, for the intervals of the response
LEVEL = 0.95
BANDS = 8  # groups of neighbouring features to occlude; each costs one pass over the trials
WINDOW_SECONDS = 1.0  # length of an occluded moment
PLACES = 8  # occluded moments per song
SONGS = 32  # at most, for occluded moments: the model predicts SONGS * (PLACES + 1) sounds

Predict = Callable[[list[np.ndarray]], list[np.ndarray]]  # sounds (T, F) -> predictions (T,), one each


@dataclass(frozen=True)
class Weights:
    weight: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class TemporalResponse:
    """Weights of a ridge regression over lag, in scaled units of the target per standard deviation of a descriptor."""

    seconds: list[float]  # the lags
    songs: int  # in the training split
    descriptors: dict[str, Weights]


@dataclass(frozen=True)
class OccludedBand:
    """The loss of a model without a group of neighbouring features."""

    first: int
    last: int
    lost: Interval  # of r within trials, after detrending
    name: str


@dataclass(frozen=True)
class OccludedMoments:
    """How much a prediction changes around an occluded moment, by lag."""

    seconds: list[float]  # the lags; negative before the moment
    change: list[float]  # mean absolute change over windows
    windows: list[int]  # number of windows that reach the lag
    window_seconds: float


@dataclass(frozen=True)
class Explanations:
    response: TemporalResponse
    bands: list[OccludedBand]
    absence: OccludedMoments | None  # None: no sound is longer than WINDOW_SECONDS


def temporal_response(train: TrialsWithSound) -> TemporalResponse:
    """Fit the weights of the ridge regression over lag, with intervals over training songs."""
    # Each resample of songs is fitted again, but with the one penalty chosen here: choosing it again costs 5 folds.
    level, spread = ridge_scaling(train, DESCRIPTORS)
    grams = song_grams(train, DESCRIPTORS, level, spread, kernel=False)
    penalty = best_penalty(grams)
    parts = list(grams.values())
    xx, xy = np.stack([part.xx for part in parts]), np.stack([part.xy for part in parts])  # (S, P, P), (S, P)
    counts = np.random.default_rng(0).multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=RESAMPLES)
    resampled = np.stack(
        [solve(Gram(np.tensordot(each, xx, 1), each @ xy, 0.0), penalty)[1:] for each in counts.astype(float)]
    )  # (RESAMPLES, D * lags)
    bounds = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    values = np.stack([solve(total(parts), penalty)[1:], *bounds])  # (3, D * lags): weights, low, high
    by_lag = values.reshape(3, len(DESCRIPTORS), -1)[..., ::-1]  # a design holds the oldest frame first
    seconds = np.arange(by_lag.shape[2]) / train.frame_rate
    descriptors = {name: Weights(*by_lag[:, row].tolist()) for row, name in enumerate(DESCRIPTORS)}
    return TemporalResponse(seconds.tolist(), len(parts), descriptors)


def occluded_bands(
    predict: Predict,
    sounds: Sequence[np.ndarray],
    fill: np.ndarray,
    names: Sequence[str],
    targets: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    songs: Sequence[str],
    listeners: Sequence[str],
    over: str,
) -> list[OccludedBand]:
    """Measure how much r (within trials, after detrending) each band contributes, lowest band first.

    Args:
        sounds: features (T, F) of each trial's sound.
        fill: (F,), the values that replace a band: the training means.
        names: (F,), of the features.
        targets, masks: (T,) per trial.
        over: "songs", "listeners" or "both": the clusters of the intervals.
    """
    target, mask = pad_rows(targets, np.float64), pad_rows(masks, bool)

    def correlation(sounds: list[np.ndarray]) -> np.ndarray:
        return detrended_correlation(pad_rows(predict(sounds), np.float64), target, mask)

    with_all_bands = correlation(list(sounds))
    bands = []
    for band in np.array_split(np.arange(len(fill)), min(BANDS, len(fill))):
        without = [sound.copy() for sound in sounds]
        for sound in without:
            sound[:, band] = fill[band]
        lost = cast(Interval, bootstrap(with_all_bands - correlation(without), songs, listeners, over))
        first, last = int(band[0]), int(band[-1])
        bands.append(OccludedBand(first, last, lost, f"{names[first]} to {names[last]}"))
    return bands


def occluded_moments(
    predict: Predict, sounds: Sequence[np.ndarray], fill: np.ndarray, frame_rate: float
) -> OccludedMoments | None:
    """Measure how much a prediction changes around an occluded moment of the sound.

    A window of WINDOW_SECONDS is replaced by `fill` (F,) at PLACES positions in each of the first SONGS sounds (T, F).
    Lags that fewer than a quarter of the windows reach are left out. Returns None if no sound is longer than a window.
    """
    width = max(round(WINDOW_SECONDS * frame_rate), 1)
    chosen = [sound for sound in sounds if len(sound) > width][:SONGS]
    if not chosen:
        return None
    altered, origin = [], []
    for number, sound in enumerate(chosen):
        for start in np.unique(np.linspace(0, len(sound) - width, PLACES).round().astype(int)):
            without = sound.copy()
            without[start : start + width] = fill
            altered.append(without)
            origin.append((number, int(start)))
    predicted = predict([*chosen, *altered])  # in one call, so that the model batches them
    plain, changed = predicted[: len(chosen)], predicted[len(chosen) :]
    longest = max(map(len, chosen))
    change, windows = np.zeros(2 * longest), np.zeros(2 * longest, dtype=int)
    for prediction, (number, start) in zip(changed, origin, strict=True):
        lags = np.arange(len(prediction)) - start + longest  # relative to the first frame of the window, from 0
        change[lags] += np.abs(prediction - plain[number])
        windows[lags] += 1
    reached = np.flatnonzero(windows >= max(windows.max() // 4, 1))
    return OccludedMoments(
        seconds=((reached - longest) / frame_rate).tolist(),
        change=(change[reached] / windows[reached]).tolist(),
        windows=windows[reached].tolist(),
        window_seconds=width / frame_rate,
    )
