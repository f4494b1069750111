"""Baselines: constants and curves that ignore the sound, and ridge regression on descriptors of the sound.

All are fitted on training trials alone. A baseline is a function from training trials to a predictor. A predictor is a
function from trials to predictions, one array (T,) per trial, in the scaled unit of the targets.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.descriptors import DESCRIPTORS

LAG_SECONDS = 8.0  # longest lag of a descriptor; a skin conductance response is over by then
PENALTIES = tuple(float(penalty) for penalty in np.logspace(0, 6, 7))
SMALLEST_PENALTY = 1e-9  # keeps a design of constants solvable
PENALTY_FOLDS = 5
RISE_SECONDS, DECAY_SECONDS = 0.75, 2.0  # time constants of the Bateman kernel, Benedek & Kaernbach 2010
KERNEL_SECONDS = 12.0  # after that the kernel is below 1 % of its peak
FEWEST_TRIALS = 5  # a mean curve over time ends where fewer trials are left


@dataclass(frozen=True)
class TrialsWithSound:
    """Trials of one channel, and descriptors of their songs."""

    targets: Sequence[np.ndarray]  # (T,) per trial, scaled
    masks: Sequence[np.ndarray]  # (T,) bool per trial
    songs: Sequence[int]  # index into `descriptors` per trial
    descriptors: Sequence[np.ndarray]  # (T, D) per song
    frame_rate: float  # Hz


Predictor = Callable[[TrialsWithSound], list[np.ndarray]]


def training_mean(train: TrialsWithSound) -> Predictor:
    """Predict the mean of all training frames."""
    mean = float(
        np.mean(np.concatenate([target[mask] for target, mask in zip(train.targets, train.masks, strict=True)]))
    )
    return lambda trials: [np.full(len(target), mean) for target in trials.targets]


def straight_line(train: TrialsWithSound) -> Predictor:
    """Predict one straight line over the time since onset: the drift that most trials share."""
    times = np.concatenate([np.flatnonzero(mask) for mask in train.masks])
    values = np.concatenate([target[mask] for target, mask in zip(train.targets, train.masks, strict=True)])
    slope, level = np.polyfit(times, values, 1)
    return lambda trials: [level + slope * np.arange(len(target)) for target in trials.targets]


def time_curve(train: TrialsWithSound) -> Predictor:
    """Predict the mean training trial, frame by frame since onset."""
    longest = max(map(len, train.targets))
    total, count = np.zeros(longest), np.zeros(longest)
    for target, mask in zip(train.targets, train.masks, strict=True):
        total[: len(target)] += np.where(mask, target, 0)
        count[: len(target)] += mask
    enough = np.flatnonzero(count >= min(FEWEST_TRIALS, len(train.targets)))
    curve = np.interp(np.arange(longest), enough, total[enough] / count[enough])

    def predict(trials: TrialsWithSound) -> list[np.ndarray]:
        return [curve[np.minimum(np.arange(len(target)), longest - 1)] for target in trials.targets]

    return predict


def ridge(train: TrialsWithSound, names: Sequence[str] = DESCRIPTORS, kernel: bool = False) -> Predictor:
    """Predict by ridge regression on the descriptors of the last LAG_SECONDS.

    The penalty is chosen by cross-validation over training songs, in PENALTY_FOLDS folds.

    Args:
        kernel: add the descriptors convolved with the kernel of a skin conductance response.
    """
    level, spread = ridge_scaling(train, names)
    grams = song_grams(train, names, level, spread, kernel)
    weights = solve(total(grams.values()), best_penalty(grams))

    def predict(trials: TrialsWithSound) -> list[np.ndarray]:
        songs = {song: design(trials, song, names, level, spread, kernel) @ weights for song in set(trials.songs)}
        return [
            np.pad(songs[song], (0, max(0, len(target) - len(songs[song]))), mode="edge")[: len(target)]
            for song, target in zip(trials.songs, trials.targets, strict=True)
        ]

    return predict


def ridge_scaling(train: TrialsWithSound, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation (D,) of descriptors over the training songs, each song once."""
    columns = [DESCRIPTORS.index(name) for name in names]
    values = np.concatenate([train.descriptors[song] for song in sorted(set(train.songs))])[:, columns]
    return values.mean(axis=0), np.maximum(values.std(axis=0), 1e-9)


def design(
    trials: TrialsWithSound, song: int, names: Sequence[str], level: np.ndarray, spread: np.ndarray, kernel: bool
) -> np.ndarray:
    """Return the design matrix (T, P) of one song."""
    columns = [DESCRIPTORS.index(name) for name in names]
    return lagged((trials.descriptors[song][:, columns] - level) / spread, trials.frame_rate, kernel)


def song_grams(
    train: TrialsWithSound, names: Sequence[str], level: np.ndarray, spread: np.ndarray, kernel: bool
) -> dict[int, "Gram"]:
    """Return the sums for least squares per song, over its trials."""
    grams: dict[int, Gram] = {}
    for song, trials in sorted(trials_of_songs(train).items()):
        x = design(train, song, names, level, spread, kernel)
        parts = []
        for trial in trials:
            mask = train.masks[trial][: len(x)]
            rows, values = x[: len(mask)][mask], train.targets[trial][: len(mask)][mask]
            parts.append(Gram(rows.T @ rows, rows.T @ values, float(values @ values)))
        grams[song] = total(parts)
    return grams


def trials_of_songs(trials: TrialsWithSound) -> dict[int, list[int]]:
    """Return the indices of the trials of each song."""
    positions: dict[int, list[int]] = {}
    for trial, song in enumerate(trials.songs):
        positions.setdefault(song, []).append(trial)
    return positions


def lagged(descriptors: np.ndarray, frame_rate: float, kernel: bool) -> np.ndarray:
    """Return a design matrix (T, 1 + D * lags): a constant, and the descriptors (T, D) at lags up to LAG_SECONDS."""
    if kernel:
        response = bateman(frame_rate)
        smooth = np.stack([np.convolve(column, response)[: len(column)] for column in descriptors.T], axis=1)
        descriptors = np.hstack([descriptors, smooth])
    lags = round(LAG_SECONDS * frame_rate) + 1
    padded = np.pad(descriptors, ((lags - 1, 0), (0, 0)))  # 0 is the training mean: standardised before
    windows = np.lib.stride_tricks.sliding_window_view(padded, lags, axis=0)  # (T, D, lags)
    return np.hstack([np.ones((len(descriptors), 1)), windows.reshape(len(descriptors), -1)])


def bateman(frame_rate: float) -> np.ndarray:
    """Return the shape of a skin conductance response, with a peak of 1, at `frame_rate` Hz."""
    times = np.arange(round(KERNEL_SECONDS * frame_rate)) / frame_rate
    response = np.exp(-times / DECAY_SECONDS) - np.exp(-times / RISE_SECONDS)
    return response / response.max()


@dataclass(frozen=True)
class Gram:
    """The sums over rows x and values y that least squares needs."""

    xx: np.ndarray  # (P, P)
    xy: np.ndarray  # (P,)
    yy: float


def total(parts: Iterable[Gram]) -> Gram:
    parts = list(parts)
    zero = np.zeros(())
    xx, xy = sum((part.xx for part in parts), zero), sum((part.xy for part in parts), zero)
    return Gram(xx, xy, sum((part.yy for part in parts), 0.0))


def solve(gram: Gram, penalty: float) -> np.ndarray:
    """Return the ridge weights (P,); the constant, which comes first, is not penalised."""
    penalties = np.full(len(gram.xx), penalty)
    penalties[0] = SMALLEST_PENALTY
    return np.linalg.solve(gram.xx + np.diag(penalties), gram.xy)


def best_penalty(grams: dict[int, Gram]) -> float:
    """Return the penalty with the smallest squared error on left-out songs."""
    songs = sorted(grams)
    errors = dict.fromkeys(PENALTIES, 0.0)
    for fold in range(min(PENALTY_FOLDS, len(songs))):
        out = total(grams[song] for song in songs[fold::PENALTY_FOLDS])
        kept = [grams[song] for index, song in enumerate(songs) if index % PENALTY_FOLDS != fold]
        if not kept:
            return PENALTIES[-1]  # only one song, so no cross-validation: take the most cautious penalty
        rest = total(kept)
        for penalty in PENALTIES:
            weights = solve(rest, penalty)
            # |x w - y|^2, expanded so that it needs only the sums
            errors[penalty] += float(weights @ out.xx @ weights - 2 * weights @ out.xy + out.yy)
    return min(errors, key=errors.__getitem__)


def mean_of_others(trials: TrialsWithSound) -> list[np.ndarray]:
    """Predict the mean of the song's other trials: an oracle for models that know the song."""
    predictions, of_song = [], trials_of_songs(trials)
    for trial, (song, target) in enumerate(zip(trials.songs, trials.targets, strict=True)):
        total, count = np.zeros(len(target)), np.zeros(len(target))
        for other in (other for other in of_song[song] if other != trial):
            frames = min(len(target), len(trials.targets[other]))
            total[:frames] += np.where(trials.masks[other], trials.targets[other], 0)[:frames]
            count[:frames] += trials.masks[other][:frames]
        predictions.append(np.where(count > 0, total / np.maximum(count, 1), 0.0))
    return predictions


BASELINES_WITHOUT_SOUND: dict[str, Callable[[TrialsWithSound], Predictor]] = {
    "training_mean": training_mean,
    "straight_line": straight_line,
    "time_curve": time_curve,
}
BASELINES_WITH_SOUND: dict[str, Callable[[TrialsWithSound], Predictor]] = {
    "loudness": lambda train: ridge(train, names=("loudness",)),
    "ridge": ridge,
    "ridge_scr": lambda train: ridge(train, kernel=True),
}
