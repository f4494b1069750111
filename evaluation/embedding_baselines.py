"""What the mean of the training targets and ridge regression on embeddings tell: what a fusion of them has to beat."""

# N rows, D numbers of an embedding, T frames, P penalties

from collections.abc import Mapping, Sequence

import numpy as np

# Of the squared weights, a training row: with features of variance 1, a penalty of 1 halves the weight of a feature
# that goes with no other.
PENALTIES = tuple(float(penalty) for penalty in np.logspace(-4, 4, 17))


def mean_baseline(train_y: np.ndarray, rows: int) -> np.ndarray:
    """The mean of the training targets for each of so many rows, (rows,)."""
    return np.full(rows, checked("train_y", train_y, 1).mean())


def pooled(values: Sequence[np.ndarray], present: np.ndarray, width: int | None = None) -> np.ndarray:
    """The mean (N, D) over the frames of embeddings (T, D) or (D,), one a row; zeros where `present` (N,) is false.

    Args:
        width: D, for a side on which no row may have the modality.
    """
    if len(values) != len(present):
        raise ValueError(f"values: {len(values)} rows and present: {len(present)}; give one of each a row")
    found = []
    for row, (value, given) in enumerate(zip(values, present, strict=True)):
        if not given:
            found.append(None)
            continue
        frames = np.atleast_2d(np.asarray(value, np.float64))
        if frames.ndim != 2 or not frames.size:
            raise ValueError(f"values: row {row} is said to be present and is {np.shape(value)}; it takes (T, D)")
        if frames.shape[1] != (width or frames.shape[1]):
            raise ValueError(f"values: row {row} has {frames.shape[1]} numbers a frame and others {width}")
        width = frames.shape[1]
        found.append(frames.mean(axis=0))
    if width is None:
        raise ValueError("values: no row is present, so that nothing tells how wide they are; give width")
    means = np.array([np.zeros(width) if mean is None else mean for mean in found]).reshape(-1, width)
    return checked("values", means, 2)


def side_by_side(means: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pooled embeddings (N, D) of some modalities in one row, each with a column that says whether it is there.

    Without that column, the zeros of what is absent would count as an embedding far from all others.
    """
    return np.hstack([np.column_stack([means[name], np.asarray(present[name], np.float64)]) for name in means])


def ridge(
    train_x: np.ndarray,
    train_y: np.ndarray,
    validation_x: np.ndarray,
    validation_y: np.ndarray,
    test_x: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
) -> np.ndarray:
    """Predictions (N,) for the rows of test_x (N, D), in the unit of the targets.

    Features are standardised by the training rows, and weights are fitted on these alone; the penalty is the one with
    the least squared error on the validation rows, of equally good ones the largest. A feature that is constant in
    training counts for nothing.
    """
    train_x, validation_x, test_x = (
        checked(name, x, 2) for name, x in (("train_x", train_x), ("validation_x", validation_x), ("test_x", test_x))
    )
    train_y, validation_y = checked("train_y", train_y, 1), checked("validation_y", validation_y, 1)
    for side, x, y in (("train", train_x, train_y), ("validation", validation_x, validation_y)):
        if len(x) != len(y) or not len(x):
            raise ValueError(f"{side}: {len(x)} rows and {len(y)} targets; give one target a row, at least one row")
    if not len(penalties) or min(penalties) <= 0:
        raise ValueError(
            f"penalties: {penalties} must be above 0; without one, weights of many features are not unique"
        )
    level, spread = train_x.mean(axis=0), train_x.std(axis=0)
    known = spread > 1e-9 * np.maximum(np.abs(level), 1e-9)
    level, spread = level[known], spread[known]

    def standard(x: np.ndarray) -> np.ndarray:
        return (x[:, known] - level) / spread

    ordered = sorted(penalties, reverse=True)
    weights = ridge_weights(standard(train_x), train_y - train_y.mean(), ordered)  # (P, D)
    errors = ((standard(validation_x) @ weights.T + train_y.mean() - validation_y[:, None]) ** 2).mean(axis=0)
    return standard(test_x) @ weights[errors.argmin()] + train_y.mean()


def ridge_weights(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
    """Weights (P, D) that minimise |x w - y|^2 + N penalty |w|^2 for each penalty; x (N, D) and y (N,) are centred.

    One decomposition serves all penalties: that of x' x, or of x x' where features outnumber rows.
    """
    rows, features = x.shape
    added = rows * np.asarray(penalties, np.float64)[:, None]  # (P, 1)
    if features <= rows:
        values, vectors = np.linalg.eigh(x.T @ x)
        return (vectors.T @ (x.T @ y)) / (np.maximum(values, 0) + added) @ vectors.T
    values, vectors = np.linalg.eigh(x @ x.T)
    return (vectors.T @ y) / (np.maximum(values, 0) + added) @ vectors.T @ x


def checked(name: str, values: np.ndarray, dimensions: int) -> np.ndarray:
    """Numbers of so many dimensions; else an error that says which are not."""
    values = np.asarray(values, np.float64)
    if values.ndim != dimensions:
        raise ValueError(f"{name}: {values.shape} was given; it takes {'(N, D)' if dimensions == 2 else '(N,)'}")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(f"{name}: row {row} holds what is no number; take it as absent, or find out where it is from")
    return values
