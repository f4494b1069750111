"""What the music does, as far as models can tell: responses over lag, and what is lost without a band or a moment.

Ridge regression has a temporal response function: its weights over lag. A network has none; what it listens to is
asked by occlusion: a part of its input is replaced by the mean of the training, and the change is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evaluation.controls import detrended_correlation
from evaluation.descriptors import DESCRIPTORS
from evaluation.intervals import bootstrap
from evaluation.signal_baselines import Gram, Heard, best_penalty, ridge_scaling, solve, song_grams, total
from evaluation.trials import pad_rows

RESAMPLES = 200  # of the training songs, for intervals of the response
LEVEL = 0.95
BANDS = 8  # groups of neighbouring features that are occluded, one pass of the model each
WINDOW_SECONDS = 1.0  # occluded at once
PLACES = 8  # windows a song
SONGS = 32  # whose moments are occluded, at most: SONGS * PLACES + SONGS sounds are predicted

Predict = Callable[[list[np.ndarray]], list[np.ndarray]]  # sounds (T, F) -> predictions (T,), one each


def temporal_response(train: Heard) -> dict[str, Any]:
    """Weights of the ridge over lag, with intervals over training songs, for `metrics.json`.

    Weights are in the scaled unit of the target a standard deviation of the descriptor. Songs are drawn with
    replacement and all weights fitted anew, with the penalty that was chosen once.
    """
    level, spread = ridge_scaling(train, DESCRIPTORS)
    grams = song_grams(train, DESCRIPTORS, level, spread, kernel=False)
    penalty = best_penalty(grams)
    parts = list(grams.values())
    xx, xy = np.stack([part.xx for part in parts]), np.stack([part.xy for part in parts])  # (S, P, P), (S, P)
    counts = np.random.default_rng(0).multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=RESAMPLES)
    resampled = np.stack(
        [solve(Gram(np.tensordot(each, xx, 1), each @ xy, 0.0), penalty)[1:] for each in counts.astype(float)]
    )  # (RESAMPLES, D * lags)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    weights = solve(total(parts), penalty)[1:]
    by_lag = {  # a design holds the oldest frame first
        kind: values.reshape(len(DESCRIPTORS), -1)[:, ::-1]
        for kind, values in (("weight", weights), ("low", low), ("high", high))
    }
    lags = by_lag["weight"].shape[1]
    return {
        "seconds": (np.arange(lags) / train.frame_rate).tolist(),
        "songs": len(parts),
        "descriptors": {
            name: {kind: values[row].tolist() for kind, values in by_lag.items()}
            for row, name in enumerate(DESCRIPTORS)
        },
    }


def occluded_bands(
    predict: Predict,
    sounds: Sequence[np.ndarray],
    fill: np.ndarray,
    targets: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    songs: Sequence[str],
    listeners: Sequence[str],
    over: str,
) -> list[dict[str, Any]]:
    """How much of the r within trials, after detrending, is lost without each band, lowest first; for `metrics.json`.

    Args:
        sounds: (T, F) features that each trial heard. fill: (F,) what stands in for a band, the training's mean.
        targets, masks: (T,) each. over: what intervals are over.
    """
    target, mask = pad_rows(targets, np.float64), pad_rows(masks, bool)

    def correlation(heard: list[np.ndarray]) -> np.ndarray:
        return detrended_correlation(pad_rows(predict(heard), np.float64), target, mask)

    whole = correlation(list(sounds))
    found = []
    for band in np.array_split(np.arange(len(fill)), min(BANDS, len(fill))):
        without = [sound.copy() for sound in sounds]
        for sound in without:
            sound[:, band] = fill[band]
        lost = bootstrap(whole - correlation(without), songs, listeners, over)
        found.append({"first": int(band[0]), "last": int(band[-1]), "lost": asdict(lost)})
    return found


def occluded_moments(
    predict: Predict, sounds: Sequence[np.ndarray], fill: np.ndarray, frame_rate: float
) -> dict[str, Any] | None:
    """How much a prediction changes, so long after (before: negative) a moment that was taken out of the sound.

    A window of WINDOW_SECONDS is replaced by `fill` (F,) at PLACES places of each of the first SONGS sounds (T, F).
    The change is absolute, averaged over windows; `windows` says how many reach each lag, and lags that fewer than a
    quarter of the windows reach are left out. None where no sound is longer than a window.
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
    predicted = predict([*chosen, *altered])
    plain, changed = predicted[: len(chosen)], predicted[len(chosen) :]
    longest = max(map(len, chosen))
    change, windows = np.zeros(2 * longest), np.zeros(2 * longest, dtype=int)
    for made, (number, start) in zip(changed, origin, strict=True):
        lags = np.arange(len(made)) - start + longest  # of the window's first frame
        change[lags] += np.abs(made - plain[number])
        windows[lags] += 1
    reached = np.flatnonzero(windows >= max(windows.max() // 4, 1))
    return {
        "seconds": ((reached - longest) / frame_rate).tolist(),
        "change": (change[reached] / windows[reached]).tolist(),
        "windows": windows[reached].tolist(),
        "window_seconds": width / frame_rate,
    }
