"""Baselines of a fusion of embeddings: the mean of the training targets, and ridge regression."""

# N rows, D numbers of an embedding, T frames, P penalties

from collections.abc import Mapping, Sequence

import numpy as np

# On the squared weights, per training row: with features of variance 1, a penalty of 1 halves the weight of a feature
# that correlates with no other.
PENALTIES = tuple(float(penalty) for penalty in np.logspace(-4, 4, 17))


def mean_baseline(train_y: np.ndarray, rows: int) -> np.ndarray:
    """Predict the mean of the training targets for every row, (rows,)."""
    return np.full(rows, finite_array("train_y", train_y, 1).mean())


def mean_embeddings(values: Sequence[np.ndarray], present: np.ndarray, width: int | None = None) -> np.ndarray:
    """Average the embeddings (T, D) or (D,) of each row over its frames, (N, D); zeros where `present` (N,) is false.

    Args:
        width: D, needed where no row has the modality.
    """
    if len(values) != len(present):
        raise ValueError(f"rows of values: {len(values)}, and of present: {len(present)}; give one of each a row")
    means = []
    for row, (value, given) in enumerate(zip(values, present, strict=True)):
        if not given:
            means.append(None)
            continue
        frames = np.atleast_2d(np.asarray(value, np.float64))
        if frames.ndim != 2 or not frames.size:
            raise ValueError(f"values: row {row} is said to be present and is {np.shape(value)}; it takes (T, D)")
        if frames.shape[1] != (width or frames.shape[1]):
            raise ValueError(f"values: row {row} has {frames.shape[1]} numbers a frame and others {width}")
        width = frames.shape[1]
        means.append(frames.mean(axis=0))
    if width is None:
        raise ValueError("values: no row is present, so that nothing tells how wide they are; give width")
    table = np.array([np.zeros(width) if mean is None else mean for mean in means]).reshape(-1, width)
    return finite_array("values", table, 2)


def join_modalities(means: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]) -> np.ndarray:
    """Join mean embeddings (N, D) of modalities, each followed by a column that tells whether it is present."""
    # Without that column, the zeros of an absent modality would count as an embedding far from all others.
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

    Features are standardised by the training rows, and weights are fitted on these alone. The penalty is the one with
    the least squared error on the validation rows, the largest of equally good ones. A feature that is constant in
    training is left out.
    """
    train_x, validation_x, test_x = (
        finite_array(name, x, 2)
        for name, x in (("train_x", train_x), ("validation_x", validation_x), ("test_x", test_x))
    )
    train_y, validation_y = finite_array("train_y", train_y, 1), finite_array("validation_y", validation_y, 1)
    for side, x, y in (("train", train_x, train_y), ("validation", validation_x, validation_y)):
        if len(x) != len(y) or not len(x):
            raise ValueError(f"{side}: {len(x)} rows and {len(y)} targets; give one target a row, at least one row")
    if not len(penalties) or min(penalties) <= 0:
        raise ValueError(
            f"penalties: {penalties} must be above 0; without one, weights of many features are not unique"
        )
    mean, deviation = train_x.mean(axis=0), train_x.std(axis=0)
    varies = deviation > 1e-9 * np.maximum(np.abs(mean), 1e-9)
    mean, deviation = mean[varies], deviation[varies]

    def standardise(x: np.ndarray) -> np.ndarray:
        return (x[:, varies] - mean) / deviation

    largest_first = sorted(penalties, reverse=True)
    weights = ridge_weights(standardise(train_x), train_y - train_y.mean(), largest_first)  # (P, D)
    errors = ((standardise(validation_x) @ weights.T + train_y.mean() - validation_y[:, None]) ** 2).mean(axis=0)
    return standardise(test_x) @ weights[errors.argmin()] + train_y.mean()


def ridge_weights(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
    """Return the weights (P, D) that minimise |x w - y|^2 + N penalty |w|^2, for centred x (N, D) and y (N,)."""
    # One decomposition serves all penalties: that of x' x, or of x x' where features outnumber rows.
    rows, features = x.shape
    added = rows * np.asarray(penalties, np.float64)[:, None]  # (P, 1)
    if features <= rows:
        values, vectors = np.linalg.eigh(x.T @ x)
        return (vectors.T @ (x.T @ y)) / (np.maximum(values, 0) + added) @ vectors.T
    values, vectors = np.linalg.eigh(x @ x.T)
    return (vectors.T @ y) / (np.maximum(values, 0) + added) @ vectors.T @ x


def finite_array(name: str, values: np.ndarray, dimensions: int) -> np.ndarray:
    """Return values as float64; refuse other dimensions, and numbers that are not finite."""
    values = np.asarray(values, np.float64)
    if values.ndim != dimensions:
        raise ValueError(f"{name}: {values.shape} was given; it takes {'(N, D)' if dimensions == 2 else '(N,)'}")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(f"{name}: row {row} holds what is no number; take it as absent, or find out where it is from")
    return values
