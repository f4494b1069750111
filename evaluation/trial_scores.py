"""Scores of predicted signals, a trial at a time: over its frames that count, never across trials.

N trials, T frames (padded), all arrays (N, T). A correlation of a constant is undefined; it is reported as NaN in the
per-trial scores and counted in the summary, so that an average never hides it.
"""

import numpy as np

SCORES = ("rmse", "mae", "pearson", "ccc")


def trial_scores(predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """RMSE and MAE in the unit of the targets, Pearson's r and Lin's concordance, each (N,) float64.

    Non-finite predictions on frames that count are an error: they would poison an average in silence.
    """
    if not predictions.shape == targets.shape == mask.shape:
        raise ValueError(f"shapes differ: {predictions.shape = }, {targets.shape = }, {mask.shape = }")
    mask = mask.astype(bool)
    broken = ~np.isfinite(predictions) & mask
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} predicted frames in {int(broken.any(axis=1).sum())} trials are not finite; "
            "the training has diverged: lower learning_rate or max_grad_norm"
        )
    frames = mask.sum(axis=1)  # (N,)
    predictions = np.where(mask, predictions, 0.0).astype(np.float64)
    targets = np.where(mask, targets, 0.0).astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.where(mask, values, 0.0).sum(axis=1) / frames

    error = predictions - targets
    centred_prediction = predictions - mean(predictions)[:, None]
    centred_target = targets - mean(targets)[:, None]
    covariance = mean(centred_prediction * centred_target)
    variance_prediction, variance_target = mean(centred_prediction**2), mean(centred_target**2)
    spread = variance_prediction + variance_target + (mean(predictions) - mean(targets)) ** 2
    # Below this a "variance" is rounding noise of a constant.
    noise = np.finfo(np.float32).eps ** 2 * np.maximum(mean(predictions**2), mean(targets**2))
    defined = (variance_prediction > noise) & (variance_target > noise)
    with np.errstate(invalid="ignore", divide="ignore"):
        pearson = np.where(defined, covariance / np.sqrt(variance_prediction * variance_target), np.nan)
        concordance = np.where(variance_target > noise, 2 * covariance / spread, np.nan)
    return {"rmse": np.sqrt(mean(error**2)), "mae": mean(np.abs(error)), "pearson": pearson, "ccc": concordance}


def summarise(scores: dict[str, np.ndarray]) -> dict[str, dict[str, float | int | None]]:
    """The mean over the trials where a score is defined, how many those are, and how many are not."""
    summary = {}
    for name, values in scores.items():
        defined = values[np.isfinite(values)]
        summary[name] = {
            "mean": float(defined.mean()) if len(defined) else None,
            "trials": len(defined),
            "undefined": len(values) - len(defined),
        }
    return summary
