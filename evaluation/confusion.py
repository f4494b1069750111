"""Classification scores and their intervals over dialogues, all computed from confusion matrices.

Utterances of one dialogue resemble each other, so the bootstrap draws whole dialogues with replacement. The confusion
matrix of a resample is the sum of the matrices of its dialogues.
"""

# N rows, K classes, D dialogues, S resamples

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.intervals import Interval, interval_of

SAMPLES = 1000  # bootstrap resamples

ResampledScores = dict[str, np.ndarray]  # score -> (1 + S,): of the original data, then of each resample


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix (K, K) of codes (N,): one row per true class, one column per predicted class."""
    return confusions(targets, predictions, classes, np.zeros(len(targets), int), 1)[0]


def confusions(
    targets: np.ndarray, predictions: np.ndarray, classes: int, group: np.ndarray, groups: int
) -> np.ndarray:
    """Return a confusion matrix (K, K) for each group of rows, (groups, K, K); group: (N,)."""
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if targets.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(
            f"targets.shape={targets.shape}, predictions.shape={predictions.shape}: both must be (N,). Give one class "
            "per row."
        )
    for name, codes in (("targets", targets), ("predictions", predictions)):
        if codes.dtype.kind not in "iu":
            raise ValueError(f"{name}.dtype={codes.dtype}: must be an integer type. Give the codes of the classes.")
        invalid = (codes < 0) | (codes >= classes)
        if invalid.any():
            row = int(invalid.argmax())
            raise ValueError(
                f"{name}[{row}]={codes[row]}: must be from 0 to {classes - 1} for {classes} classes. Fix this row."
            )
    # One integer per (group, target, prediction), so that a single bincount fills all matrices.
    cells = (group * classes + targets.astype(int)) * classes + predictions
    return np.bincount(cells, minlength=groups * classes**2).reshape(groups, classes, classes)


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall, F1, support and number of predictions per class, (..., K) each, from (..., K, K).

    0 / 0 counts as 0: the precision of a class that is never predicted, the recall of a class without rows. `support`
    and `predicted` distinguish these zeros from others.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)

    def share(of: np.ndarray) -> np.ndarray:
        return np.divide(hits, of, out=np.zeros_like(hits), where=of > 0)

    f1 = share((support + predicted) / 2)
    return {"precision": share(predicted), "recall": share(support), "f1": f1, "support": support,
            "predicted": predicted}  # fmt: skip


def scores_of(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return accuracy, weighted F1 and macro F1 (...,) of confusion matrices (..., K, K); NaN without rows.

    Weighted F1 weights the F1 of each class by its rows. Macro F1 is the mean over the classes that occur in the
    targets or in the predictions; the other classes have no F1.
    """
    each = per_class(confusion)
    occurs = each["support"] + each["predicted"] > 0
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return {
            "accuracy": hits / confusion.sum(axis=(-2, -1)),
            "weighted_f1": (each["f1"] * each["support"]).sum(axis=-1) / each["support"].sum(axis=-1),
            "macro_f1": each["f1"].sum(axis=-1) / occurs.sum(axis=-1),
        }


def one_score(name: str, predictions: ArrayLike, references: ArrayLike) -> dict[str, float | int | None]:
    """Return one of `scores_of` for codes (N,), None without rows, with the number of rows and of classes."""
    predicted, targets = np.asarray(predictions, int), np.asarray(references, int)
    highest = max(predicted.max(initial=0), targets.max(initial=0))
    table = confusion(targets, predicted, int(highest) + 1)
    occurs = int((table.sum(axis=0) + table.sum(axis=1) > 0).sum())
    return {name: float(scores_of(table)[name]) if len(targets) else None, "rows": len(targets),
            "classes": occurs}  # fmt: skip


def shuffled(confusion: np.ndarray) -> np.ndarray:
    """Return the mean of confusion matrices (..., K, K) over all ways to shuffle the predictions over the rows."""
    # Shuffling keeps how often each class occurs and is predicted, so F1 is linear in the hits. The scores of this
    # mean matrix are therefore the exact means of the scores, without drawing a single shuffle.
    support, predicted = confusion.sum(axis=-1)[..., :, None], confusion.sum(axis=-2)[..., None, :]
    rows = confusion.sum(axis=(-2, -1))[..., None, None]
    return support * predicted / np.maximum(rows, 1)  # all 0 without rows


@dataclass(frozen=True)
class DialogueResamples:
    """The dialogue of each row, and how often each resample contains each dialogue."""

    code: np.ndarray  # (N,)
    weights: np.ndarray  # (1 + S, D); the first row is all 1: the original data

    @classmethod
    def draw(cls, names: Sequence[str], samples: int = SAMPLES, seed: int = 0) -> "DialogueResamples":
        """Draw whole dialogues with replacement.

        Args:
            names: (N,), the dialogue of each row.
        """
        code = np.unique(np.asarray(names, dtype=str), return_inverse=True)[1]
        size = int(code.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=samples)
        return cls(code, np.vstack([np.ones(size), drawn]))

    @property
    def dialogues(self) -> int:
        return self.weights.shape[1]

    def tables(self, targets: np.ndarray, predictions: np.ndarray, classes: int, kept: np.ndarray) -> np.ndarray:
        """Return the confusion matrices (1 + S, K, K) of the rows `kept` (N,)."""
        tables = confusions(targets[kept], predictions[kept], classes, self.code[kept], self.dialogues)
        return (self.weights @ tables.reshape(self.dialogues, -1)).reshape(-1, classes, classes)

    def scores(self, targets: np.ndarray, predictions: np.ndarray, classes: int, kept: np.ndarray) -> ResampledScores:
        return resampled_scores(self.tables(targets, predictions, classes, kept))

    def share(self, flags: np.ndarray) -> np.ndarray:
        """Return the share (1 + S,) of rows whose flag (N,) is set."""
        return (self.weights @ np.bincount(self.code, flags, self.dialogues)) / (
            self.weights @ np.bincount(self.code, None, self.dialogues)
        )

    def interval(self, values: np.ndarray, kept: np.ndarray) -> Interval:
        """Return the interval of a score (1 + S,) of the rows `kept` (N,); its mean is that of the original data."""
        clusters = {"dialogues": len(np.unique(self.code[kept]))}
        return interval_of(float(values[0]), values[1:], clusters, int(kept.sum()), kind="dialogue")

    def intervals(self, scores: ResampledScores, kept: np.ndarray) -> dict[str, Interval]:
        return {name: self.interval(values, kept) for name, values in scores.items()}


def resampled_scores(tables: np.ndarray) -> ResampledScores:
    """Return the scores of confusion matrices (1 + S, K, K), the first of which is of the original data."""
    # A resample can lack all rows of a rare class. The class then keeps its F1 on all rows: leaving it out would raise
    # the macro F1 of those resamples, and with it the upper bound, if the model never predicts the class.
    each = per_class(tables)
    occurs = each["support"] + each["predicted"] > 0
    f1 = np.where(occurs, each["f1"], each["f1"][0])[:, occurs[0]]
    return scores_of(tables) | {"macro_f1": np.where(occurs.any(axis=1), f1.mean(axis=1), np.nan)}
