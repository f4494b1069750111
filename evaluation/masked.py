"""Shared code of the metrics: means and correlations over the frames that count, and ragged lists as arrays."""

from collections.abc import Sequence

import datasets
import numpy as np

# Inputs of every metric on signals: one list per trial, of any length; `mask` is true where a frame counts.
SIGNALS = datasets.Features(
    {
        "predictions": datasets.Sequence(datasets.Value("float64")),
        "references": datasets.Sequence(datasets.Value("float64")),
        "mask": datasets.Sequence(datasets.Value("bool")),
    }
)
Rows = Sequence[Sequence[float]] | np.ndarray
ROUNDING = 1e-6  # of a signal's root mean square; a signal that varies less is a constant with rounding noise


def masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the means (N,) of values (N, T) over the frames that count; NaN for a trial without any."""
    with np.errstate(invalid="ignore"):
        return np.where(mask, values, 0.0).sum(axis=1, dtype=np.float64) / mask.sum(axis=1)


def centred(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values (N, T) minus their mean, 0 where they do not count, and their variance (N,), 0 for a constant."""
    values = np.where(mask, values, 0.0).astype(np.float64)
    rest = np.where(mask, values - masked_mean(values, mask)[:, None], 0.0)
    variance = masked_mean(rest**2, mask)
    return rest, np.where(variance > ROUNDING**2 * masked_mean(values**2, mask), variance, 0.0)


def correlation(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return Pearson's r (N,) of signals (N, T); NaN if one of them is constant."""
    a, variance_a = centred(a, mask)
    b, variance_b = centred(b, mask)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = masked_mean(a * b, mask) / np.sqrt(variance_a * variance_b)
    return np.where((variance_a > 0) & (variance_b > 0), np.clip(r, -1, 1), np.nan)


def padded(predictions: Rows, references: Rows, mask: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pad rows of any length, one per trial, to arrays (N, T); added frames do not count."""
    lengths = np.array([len(row) for row in mask], dtype=int)
    if not len(predictions) == len(references) == len(lengths):
        raise ValueError(
            f"predictions={len(predictions)} rows, references={len(references)} rows, mask={len(lengths)} rows: "
            "lengths differ. Give one of each per trial."
        )
    real = np.arange(lengths.max(initial=0)) < lengths[:, None]  # (N, T)

    def fill(rows: Rows, name: str, dtype: type) -> np.ndarray:
        mismatched = [trial for trial, row in enumerate(rows) if len(row) != lengths[trial]]
        if mismatched:
            trial = mismatched[0]
            raise ValueError(
                f"{name}[{trial}]={len(rows[trial])} frames, mask[{trial}]={lengths[trial]} frames: lengths differ. "
                "Give one entry per frame in predictions, references and mask."
            )
        array = np.zeros(real.shape, dtype=dtype)
        # The empty array keeps this valid without rows. Unsafe casting accepts a mask of 0 and 1.
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
                f"{name}: {int(broken.sum())} frames of {int(broken.any(axis=1).sum())} trials are not finite. Mask "
                "these frames, or find out why the model predicts them."
            )
    return signals["predictions"], signals["references"], counts


def summary(name: str, scores: np.ndarray, unit: str = "trials") -> dict[str, float | int | None]:
    """Return the mean over trials (or another unit) with a defined score, and how many have one or have none."""
    defined = scores[np.isfinite(scores)]
    mean = float(defined.mean()) if len(defined) else None
    return {name: mean, unit: len(defined), "undefined": len(scores) - len(defined)}
