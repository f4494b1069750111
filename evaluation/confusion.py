"""Scores of classes, and intervals over dialogues. All of them follow from confusion matrices.

Utterances of one dialogue resemble each other, so whole dialogues are drawn with replacement. The confusion matrix of
a resample is the sum of those of its dialogues.
"""

# N rows, K classes, D dialogues, S resamples

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.intervals import Interval, interval_of

SAMPLES = 1000  # of the bootstrap

ResampledScores = dict[str, np.ndarray]  # score -> (1 + S,): of the data as they are, and of each resample


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Count how often each class (rows, K) was taken for each class (columns, K), from codes (N,)."""
    return confusions(targets, predictions, classes, np.zeros(len(targets), int), 1)[0]


def confusions(
    targets: np.ndarray, predictions: np.ndarray, classes: int, group: np.ndarray, groups: int
) -> np.ndarray:
    """Return a confusion matrix (K, K) for each group of rows, (groups, K, K); group: (N,)."""
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if targets.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(f"{targets.shape = } and {predictions.shape = } must be (N,), a class each a row")
    for name, codes in (("targets", targets), ("predictions", predictions)):
        if codes.dtype.kind not in "iu":
            raise ValueError(f"{name} are {codes.dtype}; give the whole numbers of the classes")
        wrong = (codes < 0) | (codes >= classes)
        if wrong.any():
            place = int(wrong.argmax())
            raise ValueError(
                f"{name}: that of row {place} is {codes[place]}; {classes} classes are 0 to {classes - 1}"
            )
    cells = (group * classes + targets.astype(int)) * classes + predictions
    return np.bincount(cells, minlength=groups * classes**2).reshape(groups, classes, classes)


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall, F1, support and the number of predictions of each class (..., K) of (..., K, K).

    0 / 0 is 0: the precision of a class that is never predicted, the recall of a class without rows. `support` and
    `predicted` tell these zeros from others.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)

    def share(of: np.ndarray) -> np.ndarray:
        return np.divide(hits, of, out=np.zeros_like(hits), where=of > 0)

    f1 = share((support + predicted) / 2)
    return {"precision": share(predicted), "recall": share(support), "f1": f1, "support": support,
            "predicted": predicted}  # fmt: skip


def scores_of(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return accuracy, weighted F1 and macro F1 (...,) of confusion matrices (..., K, K); NaN where there is no row.

    Weighted F1 weights the F1 of a class by its rows. Macro F1 is the mean over the classes that occur in the truth or
    in the predictions; the others have no F1.
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
    """Return one of the scores above of codes (N,), None without rows, with the number of rows and of classes."""
    predicted, targets = np.asarray(predictions, int), np.asarray(references, int)
    highest = max(predicted.max(initial=0), targets.max(initial=0))
    table = confusion(targets, predicted, int(highest) + 1)
    occurs = int((table.sum(axis=0) + table.sum(axis=1) > 0).sum())
    return {name: float(scores_of(table)[name]) if len(targets) else None, "rows": len(targets),
            "classes": occurs}  # fmt: skip


def shuffled(confusion: np.ndarray) -> np.ndarray:
    """Return the mean of confusion matrices (..., K, K) over all ways to shuffle the predictions among the rows.

    The frequencies of targets and predictions stay, so F1 is linear in the hits: the scores of the mean are the means
    of the scores.
    """
    support, predicted = confusion.sum(axis=-1)[..., :, None], confusion.sum(axis=-2)[..., None, :]
    rows = confusion.sum(axis=(-2, -1))[..., None, None]
    return support * predicted / np.maximum(rows, 1)  # without a row all is 0


@dataclass(frozen=True)
class DialogueResamples:
    """The dialogue of each row, and how often each resample holds each dialogue."""

    code: np.ndarray  # (N,)
    weights: np.ndarray  # (1 + S, D); the first row is 1: the data as they are

    @classmethod
    def draw(cls, names: Sequence[str], samples: int = SAMPLES, seed: int = 0) -> "DialogueResamples":
        """Draw whole dialogues with replacement; names: (N,), the dialogue of each row."""
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
        """Return the scores of the rows `kept` (N,)."""
        return resampled_scores(self.tables(targets, predictions, classes, kept))

    def share(self, flags: np.ndarray) -> np.ndarray:
        """Return the share (1 + S,) of rows whose flag (N,) is set."""
        return (self.weights @ np.bincount(self.code, flags, self.dialogues)) / (
            self.weights @ np.bincount(self.code, None, self.dialogues)
        )

    def interval(self, values: np.ndarray, kept: np.ndarray) -> Interval:
        """Return a score (1 + S,) of the rows `kept` (N,) with bounds; the mean is that of the data as they are."""
        clusters = {"dialogues": len(np.unique(self.code[kept]))}
        return interval_of(float(values[0]), values[1:], clusters, int(kept.sum()), kind="dialogue")

    def intervals(self, scores: ResampledScores, kept: np.ndarray) -> dict[str, Interval]:
        return {name: self.interval(values, kept) for name, values in scores.items()}


def resampled_scores(tables: np.ndarray) -> ResampledScores:
    """Return the scores of confusion matrices (1 + S, K, K), the first of the data as they are.

    A resample without rows of a rare class tells nothing about it: its F1 stays that of all rows. If macro F1 left
    the class out instead, a class that is never predicted would raise the upper bound by its absence.
    """
    each = per_class(tables)
    occurs = each["support"] + each["predicted"] > 0
    f1 = np.where(occurs, each["f1"], each["f1"][0])[:, occurs[0]]
    return scores_of(tables) | {"macro_f1": np.where(occurs.any(axis=1), f1.mean(axis=1), np.nan)}
