"""Root mean squared error of a signal, a trial at a time, in the unit of the signal."""

import datasets
import evaluate
import numpy as np


def per_trial(predictions: np.ndarray, references: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Errors (N,) of signals (N, T) over the frames that count; NaN for a trial without any."""
    error = np.where(mask, predictions, 0.0) - np.where(mask, references, 0.0)
    return np.sqrt(masked_mean(error**2, mask))


def masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of (N, T) over the frames that count: (N,), NaN for a trial without any."""
    with np.errstate(invalid="ignore"):
        return np.where(mask, values, 0.0).sum(axis=1, dtype=np.float64) / mask.sum(axis=1)


def padded(predictions: list, references: list, mask: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ragged lists, one a trial, as three arrays (N, T); frames that are added do not count."""
    lengths = np.array([len(row) for row in mask], dtype=int)
    real = np.arange(lengths.max(initial=0)) < lengths[:, None]  # (N, T)

    def fill(rows: list, name: str, dtype: type) -> np.ndarray:
        wrong = [trial for trial, row in enumerate(rows) if len(row) != lengths[trial]]
        if wrong:
            raise ValueError(
                f"{name} of trial {wrong[0]} has {len(rows[wrong[0]])} frames and its mask {lengths[wrong[0]]}; "
                "give predictions, references and mask one entry a frame"
            )
        array = np.zeros(real.shape, dtype=dtype)
        array[real] = np.array([value for row in rows for value in row], dtype=dtype)
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
                f"{name}: {int(broken.sum())} frames in {int(broken.any(axis=1).sum())} trials are not finite; "
                "mask such frames, or find out why a model predicts them"
            )
    return signals["predictions"], signals["references"], counts


def summary(name: str, scores: np.ndarray) -> dict[str, float | int | None]:
    """The mean over the trials whose score is defined, how many those are, and how many are not."""
    defined = scores[np.isfinite(scores)]
    mean = float(defined.mean()) if len(defined) else None
    return {name: mean, "trials": len(defined), "undefined": len(scores) - len(defined)}


class Rmse(evaluate.Metric):
    """The metric as `evaluate` loads it: ragged lists, one a trial."""

    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), a list a trial."""
        return evaluate.MetricInfo(
            description="Root mean squared error within each trial, averaged over trials.",
            citation="",
            inputs_description=__doc__,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("float64")),
                    "mask": datasets.Sequence(datasets.Value("bool")),
                }
            ),
        )

    def _compute(self, predictions: list, references: list, mask: list) -> dict[str, float | int | None]:
        """The mean over trials, and how many have no score."""
        return summary("rmse", per_trial(*padded(predictions, references, mask)))
