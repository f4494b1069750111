"""R squared within each trial: the share of the variation around a stated mean that a prediction explains."""

import evaluate
import numpy as np

from evaluation.array_metric import ArrayMetric
from evaluation.masked import ROUNDING, SIGNALS, masked_mean, padded, summary

REFERENCES = ("trial_mean", "train_mean")


def per_trial(
    predictions: np.ndarray,
    references: np.ndarray,
    mask: np.ndarray,
    reference: str = "trial_mean",
    train_mean: float | np.ndarray | None = None,
) -> np.ndarray:
    """Return 1 - squared error / squared distance from a mean, (N,) of signals (N, T) over the frames that count.

    NaN if the references never leave that mean.

    Args:
        reference: "trial_mean" for the mean of the trial itself, which no model can know beforehand; "train_mean" for
            the mean of the training targets.
        train_mean: one number, or one per trial (N,), in the unit of the signals.
    """
    check_reference(reference, train_mean)
    references = np.where(mask, references, 0.0).astype(np.float64)
    error = masked_mean((np.where(mask, predictions, 0.0) - references) ** 2, mask)
    mean = masked_mean(references, mask) if reference == "trial_mean" else np.asarray(train_mean, dtype=np.float64)
    distance = masked_mean((references - mean[..., None]) ** 2, mask)
    with np.errstate(invalid="ignore", divide="ignore"):
        explained = 1 - error / distance
    return np.where(distance > ROUNDING**2 * masked_mean(references**2, mask), explained, np.nan)


def check_reference(reference: str, train_mean: float | np.ndarray | None) -> None:
    if reference not in REFERENCES:
        raise ValueError(f"reference={reference!r}: unknown. Must be one of {', '.join(REFERENCES)}.")
    if (reference == "train_mean") != (train_mean is not None):
        raise ValueError(
            f"reference={reference!r}, train_mean={train_mean}: train_mean goes with reference 'train_mean', and only "
            "with it. Set both or none."
        )


class R2(ArrayMetric):
    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), one list per trial."""
        return evaluate.MetricInfo(
            description="R squared within each trial, averaged over trials.",
            citation="",
            inputs_description=__doc__,
            features=SIGNALS,
        )

    def _compute(
        self,
        predictions: list,
        references: list,
        mask: list,
        reference: str = "trial_mean",
        train_mean: float | None = None,
    ) -> dict[str, float | int | None]:
        scores = per_trial(*padded(predictions, references, mask), reference=reference, train_mean=train_mean)
        return summary("r2", scores) | {"reference": reference}
