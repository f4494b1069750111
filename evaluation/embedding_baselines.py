"""Baselines for models that fuse embeddings: the mean of the training targets, and ridge regression."""

# N rows, D dimensions of an embedding, T frames, P penalties

from collections.abc import Mapping, Sequence

import numpy as np

# Penalties on the squared weights, per training row. Features have variance 1, so a penalty of 1 halves the weight of
# a feature that is uncorrelated with all others.
PENALTIES = tuple(float(penalty) for penalty in np.logspace(-4, 4, 17))


def mean_baseline(train_y: np.ndarray, rows: int) -> np.ndarray:
    """Predict the mean of the training targets for every row, (rows,)."""
    return np.full(rows, finite_array("train_y", train_y, 1).mean())


def mean_embeddings(values: Sequence[np.ndarray], present: np.ndarray, width: int | None = None) -> np.ndarray:
    """Average the embeddings (T, D) or (D,) of each row over its frames: (N, D), zeros where `present` (N,) is false.

    Args:
        width: D, needed if no row has the modality.
    """
    if len(values) != len(present):
        raise ValueError(
            f"values={len(values)} rows, present={len(present)} rows: lengths differ. Give one of each per row."
        )
    means = []
    for row, (value, is_present) in enumerate(zip(values, present, strict=True)):
        if not is_present:
            means.append(None)
            continue
        frames = np.atleast_2d(np.asarray(value, np.float64))
        if frames.ndim != 2 or not frames.size:
            raise ValueError(
                f"values[{row}].shape={np.shape(value)}: must be (T, D). Give an embedding, or set present to false."
            )
        if frames.shape[1] != (width or frames.shape[1]):
            raise ValueError(
                f"values[{row}].shape={np.shape(value)}: D is {frames.shape[1]}, but {width} in other rows. Give "
                "embeddings of one model."
            )
        width = frames.shape[1]
        means.append(frames.mean(axis=0))
    if width is None:
        raise ValueError("width=None: unknown, because no row has this modality. Give width.")
    table = np.array([np.zeros(width) if mean is None else mean for mean in means]).reshape(-1, width)
    return finite_array("values", table, 2)


def join_modalities(means: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]) -> np.ndarray:
    """Join the mean embeddings (N, D) of modalities, each followed by a column of `present` flags."""
    # Without the flags, the zeros of an absent modality would count as an embedding far from all others.
    return np.hstack([np.column_stack([means[name], np.asarray(present[name], np.float64)]) for name in means])


def ridge(
    train_x: np.ndarray,
    train_y: np.ndarray,
    validation_x: np.ndarray,
    validation_y: np.ndarray,
    test_x: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
) -> np.ndarray:
    """Predict the targets (N,) of test_x (N, D) by ridge regression.

    Features are standardised by the training rows, and weights are fitted on the training rows alone. The penalty is
    the one with the smallest squared error on the validation rows; of equally good penalties, the largest. Features
    that are constant in training are left out.
    """
    train_x, validation_x, test_x = (
        finite_array(name, x, 2)
        for name, x in (("train_x", train_x), ("validation_x", validation_x), ("test_x", test_x))
    )
    train_y, validation_y = finite_array("train_y", train_y, 1), finite_array("validation_y", validation_y, 1)
    for side, x, y in (("train", train_x, train_y), ("validation", validation_x, validation_y)):
        if len(x) != len(y) or not len(x):
            raise ValueError(
                f"{side}_x={len(x)} rows, {side}_y={len(y)} targets: must be equal and above 0. Give a target per row."
            )
    if not len(penalties) or min(penalties) <= 0:
        # Without a penalty, the weights are not unique if features outnumber rows.
        raise ValueError(f"penalties={penalties}: must all be above 0. Give at least one positive penalty.")
    mean, deviation = train_x.mean(axis=0), train_x.std(axis=0)
    varies = deviation > 1e-9 * np.maximum(np.abs(mean), 1e-9)  # a constant column has rounding noise
    mean, deviation = mean[varies], deviation[varies]

    def standardise(x: np.ndarray) -> np.ndarray:
        return (x[:, varies] - mean) / deviation

    largest_first = sorted(penalties, reverse=True)
    weights = ridge_weights(standardise(train_x), train_y - train_y.mean(), largest_first)  # (P, D)
    errors = ((standardise(validation_x) @ weights.T + train_y.mean() - validation_y[:, None]) ** 2).mean(axis=0)
    return standardise(test_x) @ weights[errors.argmin()] + train_y.mean()


def ridge_weights(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
    """Return the weights (P, D) that minimise |x w - y|^2 + N penalty |w|^2, for centred x (N, D) and y (N,)."""
    # One decomposition serves all penalties: of x' x, or of the smaller x x' if features outnumber rows.
    rows, features = x.shape
    added = rows * np.asarray(penalties, np.float64)[:, None]  # (P, 1)
    if features <= rows:
        values, vectors = np.linalg.eigh(x.T @ x)
        return (vectors.T @ (x.T @ y)) / (np.maximum(values, 0) + added) @ vectors.T
    values, vectors = np.linalg.eigh(x @ x.T)
    return (vectors.T @ y) / (np.maximum(values, 0) + added) @ vectors.T @ x


def finite_array(name: str, values: np.ndarray, dimensions: int) -> np.ndarray:
    """Return values as float64; raise ValueError for other dimensions and for values that are not finite."""
    values = np.asarray(values, np.float64)
    if values.ndim != dimensions:
        shape = "(N, D)" if dimensions == 2 else "(N,)"
        raise ValueError(f"{name}.shape={values.shape}: must be {shape}. Give {dimensions} dimensions.")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(
            f"{name}[{row}]: not finite. Mark this row as absent, or find out where NaN or infinity comes from."
        )
    return values
