"""What the metrics share: means and correlations over the frames that count, and ragged lists as arrays."""

from collections.abc import Sequence

import datasets
import numpy as np

# What every metric takes: ragged lists, one a trial, and which of their frames count.
SIGNALS = datasets.Features(
    {
        "predictions": datasets.Sequence(datasets.Value("float64")),
        "references": datasets.Sequence(datasets.Value("float64")),
        "mask": datasets.Sequence(datasets.Value("bool")),
    }
)
Rows = Sequence[Sequence[float]] | np.ndarray
ROUNDING = 1e-6  # of a signal's root mean square: what varies less is a constant with rounding noise


def masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of (N, T) over the frames that count: (N,), NaN for a trial without any."""
    with np.errstate(invalid="ignore"):
        return np.where(mask, values, 0.0).sum(axis=1, dtype=np.float64) / mask.sum(axis=1)


def centred(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (N, T) less their mean, 0 where they do not count, and their variance (N,), 0 for a constant."""
    values = np.where(mask, values, 0.0).astype(np.float64)
    rest = np.where(mask, values - masked_mean(values, mask)[:, None], 0.0)
    variance = masked_mean(rest**2, mask)
    return rest, np.where(variance > ROUNDING**2 * masked_mean(values**2, mask), variance, 0.0)


def correlation(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pearson's r (N,) of signals (N, T); NaN where one of them is constant."""
    a, variance_a = centred(a, mask)
    b, variance_b = centred(b, mask)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = masked_mean(a * b, mask) / np.sqrt(variance_a * variance_b)
    return np.where((variance_a > 0) & (variance_b > 0), np.clip(r, -1, 1), np.nan)


def padded(predictions: Rows, references: Rows, mask: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays (N, T) of rows of any lengths, one per trial; frames that are added do not count."""
    lengths = np.array([len(row) for row in mask], dtype=int)
    if not len(predictions) == len(references) == len(lengths):
        raise ValueError(
            f"{len(predictions)} predictions, {len(references)} references and {len(lengths)} masks: give one of each "
            "per trial"
        )
    real = np.arange(lengths.max(initial=0)) < lengths[:, None]  # (N, T)

    def fill(rows: Rows, name: str, dtype: type) -> np.ndarray:
        wrong = [trial for trial, row in enumerate(rows) if len(row) != lengths[trial]]
        if wrong:
            raise ValueError(
                f"{name} of trial {wrong[0]} has {len(rows[wrong[0]])} frames and its mask {lengths[wrong[0]]}; "
                "give predictions, references and mask one entry a frame"
            )
        array = np.zeros(real.shape, dtype=dtype)
        array[real] = np.concatenate([np.zeros(0, dtype), *rows], dtype=dtype, casting="unsafe")
        return array

    counts = fill(mask, "mask", bool)
    signals = {
        "predictions": fill(predictions, "predictions", float),
        "references": fill(references, "references", float),
    }
    for name, values in signals.items():
        broken = ~np.isfinite(values) & counts
        if broken.any():
            raise ValueError(
                f"{name}: not finite in frames: {int(broken.sum())}, of trials: {int(broken.any(axis=1).sum())}; "
                "mask such frames, or find out why a model predicts them"
            )
    return signals["predictions"], signals["references"], counts


def summary(name: str, scores: np.ndarray, unit: str = "trials") -> dict[str, float | int | None]:
    """The mean over the trials (or another unit) whose score is defined, how many those are, and how many are not."""
    defined = scores[np.isfinite(scores)]
    mean = float(defined.mean()) if len(defined) else None
    return {name: mean, unit: len(defined), "undefined": len(scores) - len(defined)}
