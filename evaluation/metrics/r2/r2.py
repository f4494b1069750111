"""R squared within each trial: the share of the variation around a stated mean that a prediction explains."""

import datasets
import evaluate
import numpy as np

REFERENCES = ("trial_mean", "train_mean")
ROUNDING = 1e-6  # of a signal's root mean square: what varies less is a constant with rounding noise


def per_trial(
    predictions: np.ndarray,
    references: np.ndarray,
    mask: np.ndarray,
    reference: str = "trial_mean",
    train_mean: float | np.ndarray | None = None,
) -> np.ndarray:
    """1 - squared error / squared distance from a mean: (N,) of signals (N, T) over the frames that count.

    `trial_mean` compares with the mean of the trial itself, which no model can know beforehand; `train_mean` with the
    mean of the training targets, a number or one a trial (N,), in the unit of the signals. NaN where the references
    never leave that mean.
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
    """Refuse a mean that is not known, missing, or given in vain."""
    if reference not in REFERENCES:
        raise ValueError(f"reference = {reference!r} is not known; it takes one of {', '.join(REFERENCES)}")
    if (reference == "train_mean") != (train_mean is not None):
        raise ValueError(
            f"reference = {reference!r} with train_mean = {train_mean}: train_mean is needed by reference train_mean, "
            "and by no other"
        )


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


class R2(evaluate.Metric):
    """The metric as `evaluate` loads it: ragged lists, one a trial."""

    def _info(self) -> evaluate.MetricInfo:
        """Inputs: `predictions`, `references` and `mask` (true where a frame counts), a list a trial."""
        return evaluate.MetricInfo(
            description="R squared within each trial, averaged over trials.",
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

    def _compute(
        self,
        predictions: list,
        references: list,
        mask: list,
        reference: str = "trial_mean",
        train_mean: float | None = None,
    ) -> dict[str, float | int | None]:
        """The mean over trials, how many have no score, and the mean that was compared with."""
        scores = per_trial(*padded(predictions, references, mask), reference=reference, train_mean=train_mean)
        return summary("r2", scores) | {"reference": reference}
