"""The arrays that every score of signals is computed from: predictions and measurements per trial."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.masked import ROUNDING


@dataclass(frozen=True)
class Trials:
    """N trials of one channel, padded to T frames; a trial is one listener and one song.

    A trial without a frame that counts is kept; its scores are undefined and are counted as such.

    Raises:
        ValueError: if shapes differ, or if a value is not finite on a frame that counts. One NaN would turn a whole
            average into NaN.
    """

    prediction: np.ndarray  # (N, T) float64, in `unit`
    target: np.ndarray  # (N, T) float64, in `unit`
    mask: np.ndarray  # (N, T) bool, the frames that count
    songs: np.ndarray  # (N,) str
    listeners: np.ndarray  # (N,) str
    frame_rate: float  # Hz
    unit: str

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("prediction", "target", "mask")}
        if self.mask.ndim != 2 or len(set(shapes.values())) > 1:
            raise ValueError(f"trials: shapes={shapes}: must all be the same (N, T). Pad all arrays alike.")
        if self.mask.dtype != bool:
            raise ValueError(f"trials: mask.dtype={self.mask.dtype}: must be bool. Give true where a frame counts.")
        if not self.songs.shape == self.listeners.shape == (len(self),):
            raise ValueError(
                f"trials: songs.shape={self.songs.shape}, listeners.shape={self.listeners.shape}: both must be "
                f"({len(self)},). Give one song and one listener per trial."
            )
        if not len(self):
            raise ValueError("trials=0: nothing to score. Change split_seed, the fractions or the data.")
        if not self.frame_rate > 0:
            raise ValueError(f"trials: frame_rate={self.frame_rate}: must be above 0. Give a rate in Hz.")
        check_finite(self.prediction, self.mask, "predicted", "Training has diverged: lower learning_rate.")
        check_finite(self.target, self.mask, "target", "Mask the frames where nothing was measured.")

    def __len__(self) -> int:
        return len(self.mask)

    @classmethod
    def pad(
        cls,
        predictions: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        songs: Sequence[str],
        listeners: Sequence[str],
        frame_rate: float,
        unit: str,
    ) -> "Trials":
        """Build trials from arrays (frames,) of different lengths; added frames do not count."""
        columns = {"predictions": predictions, "targets": targets, "masks": masks, "songs": songs}
        counts = {name: len(column) for name, column in columns.items()} | {"listeners": len(listeners)}
        if len(set(counts.values())) > 1:
            raise ValueError(f"trials: {counts}: counts differ. Give one of each per trial.")
        for trial, arrays in enumerate(zip(predictions, targets, masks, strict=True)):
            lengths = [len(array) for array in arrays]
            if len(set(lengths)) > 1:
                raise ValueError(
                    f"song={songs[trial]}, listener={listeners[trial]}: frames of prediction, target and mask differ: "
                    f"{lengths}. Give equally long arrays."
                )
        return cls(
            prediction=pad_rows(predictions, np.float64),
            target=pad_rows(targets, np.float64),
            mask=pad_rows(masks, bool),
            songs=np.array(songs, dtype=str),
            listeners=np.array(listeners, dtype=str),
            frame_rate=frame_rate,
            unit=unit,
        )

    def with_prediction(self, prediction: np.ndarray) -> "Trials":
        return replace(self, prediction=prediction)

    def detrended(self) -> "Trials":
        """Return the same trials with a straight line subtracted from each prediction and each target."""
        return replace(self, prediction=detrend(self.prediction, self.mask), target=detrend(self.target, self.mask))


def check_finite(values: np.ndarray, mask: np.ndarray, what: str, remedy: str) -> None:
    """Raise ValueError for values (N, T) that are not finite on frames that count."""
    broken = ~np.isfinite(values) & mask
    if broken.any():
        raise ValueError(
            f"{what}: {int(broken.sum())} frames of {int(broken.any(axis=1).sum())} trials are not finite. {remedy}"
        )


def pad_rows(rows: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    """Stack arrays (frames,) to (N, T), padded with zeros (false) at the end."""
    lengths = np.array([len(row) for row in rows], dtype=int)
    padded = np.zeros((len(rows), lengths.max(initial=0)), dtype=dtype)
    if len(rows):
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return padded


def detrend(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Subtract from values (N, T) the least-squares line of each trial over its frames that count; 0 elsewhere."""
    frames = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    values = np.where(mask, values, 0.0).astype(np.float64)
    time = np.where(mask, np.arange(mask.shape[1]), 0.0)
    time = np.where(mask, time - time.sum(axis=1, keepdims=True) / frames, 0.0)
    rest = np.where(mask, values - values.sum(axis=1, keepdims=True) / frames, 0.0)
    spread = (time**2).sum(axis=1, keepdims=True)
    rest -= time * (time * rest).sum(axis=1, keepdims=True) / np.where(spread > 0, spread, 1.0)
    # A straight line becomes exactly 0. Otherwise its correlation would be that of rounding noise, not undefined.
    noise = ROUNDING**2 * (values**2).sum(axis=1, keepdims=True)
    return np.where((rest**2).sum(axis=1, keepdims=True) > noise, rest, 0.0)
