"""What is drawn for the batches of an epoch, how often each label comes, and no negative twice in a step."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

# K steps of an epoch, W ranks, B items of a batch, L labels

# In proportion to which numbers labels are drawn, by the number of their members.
LABEL_WEIGHTS = {"uniform": np.asarray, "sqrt": np.sqrt, "panns": np.ones_like}
TRIES = 20  # steps that are asked to take a negative which would come twice in its own


class Reason(IntEnum):
    """Why an item was drawn."""

    IN_TURN = 0
    BY_LABEL = 1
    HARD = 2
    CHECKED = 3  # a person checked that the target is not there


class DrawnItems(NamedTuple):
    """Items in the order drawn, and how they came to it; arrays of one shape."""

    items: np.ndarray  # int64
    labels: np.ndarray  # int32, the label for which it was drawn, -1 for none
    reasons: np.ndarray  # int8

    @classmethod
    def of(cls, items: np.ndarray, reason: Reason, labels: np.ndarray | int = -1) -> "DrawnItems":
        """Draws that have one reason."""
        labels = np.broadcast_to(np.asarray(labels, np.int32), items.shape)
        return cls(items.astype(np.int64), labels, np.full(items.shape, reason, np.int8))

    @classmethod
    def joined(cls, parts: "Sequence[DrawnItems]", axis: int = 0) -> "DrawnItems":
        """One after the other."""
        return cls(*(np.concatenate(columns, axis=axis) for columns in zip(*parts, strict=True)))


def label_quotas(sizes: np.ndarray, slots: int, weights: str = "sqrt") -> np.ndarray:
    """How often each label comes (L,): once, and what is left by its size and LABEL_WEIGHTS.

    With fewer slots than labels it is 1 for each, more than there is room for.
    """
    rest = slots - len(sizes)
    if rest <= 0:
        return np.ones(len(sizes), np.int64)
    weight = LABEL_WEIGHTS[weights](sizes)
    exact = rest * weight / weight.sum()
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: rest - quotas.sum()]] += 1
    return quotas + 1


def spread_repeats(draws: DrawnItems, parts: list[tuple[int, int]], dice: np.random.Generator) -> None:
    """Exchange negatives that come twice in a step, draws (K, W, B), with others of the same part; in place."""
    steps, first = len(draws.items), parts[0][0]
    negatives = draws.items[:, :, first:].reshape(steps, -1)  # (K, W * negatives)
    in_order = np.sort(negatives, axis=1)
    for step in np.flatnonzero((in_order[:, 1:] == in_order[:, :-1]).any(axis=1)).tolist():
        for begin, end in reversed(parts):
            _swap_repeats(draws, step, first, begin, end, dice)


def _swap_repeats(draws: DrawnItems, step: int, first: int, begin: int, end: int, dice: np.random.Generator) -> None:
    """Exchange what a step's columns begin to end repeat of its columns from `first` on; in place."""
    for rank, column in np.ndindex(draws.items.shape[1], end - begin):
        column += begin
        here = draws.items[step, :, first:]
        mine = draws.items[step, rank, column]
        if np.count_nonzero(here == mine) < 2:
            continue
        for other in dice.permutation(len(draws.items))[:TRIES].tolist():  # where all are full of it, it stays
            if other == step or (draws.items[other, :, first:] == mine).any():
                continue
            fits = ~np.isin(draws.items[other, :, begin:end], here)
            if fits.any():
                other_rank, other_column = divmod(int(dice.choice(np.flatnonzero(fits))), end - begin)
                for values in draws:
                    there = values[other, other_rank, begin + other_column]
                    values[other, other_rank, begin + other_column] = values[step, rank, column]
                    values[step, rank, column] = there
                break
