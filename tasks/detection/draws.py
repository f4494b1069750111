"""Draw items for the batches of an epoch: how often each label comes, and no negative twice in a step."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

# K steps per epoch, W ranks, B items per batch, L labels

# Weight of a label as a function of its number of members.
LABEL_WEIGHTS = {"uniform": np.asarray, "sqrt": np.sqrt, "panns": np.ones_like}
TRIES = 20  # other steps that are tried for moving a repeated negative


class Reason(IntEnum):
    """Why an item was drawn."""

    IN_TURN = 0
    BY_LABEL = 1
    HARD = 2
    CHECKED = 3  # an annotator confirmed that the target is absent


class DrawnItems(NamedTuple):
    """Drawn items in order, with the label and the reason of each draw; arrays of one shape."""

    items: np.ndarray  # int64
    labels: np.ndarray  # int32, label the item was drawn for, -1 for none
    reasons: np.ndarray  # int8

    @classmethod
    def of(cls, items: np.ndarray, reason: Reason, labels: np.ndarray | int = -1) -> "DrawnItems":
        """Make draws that share one reason."""
        labels = np.broadcast_to(np.asarray(labels, np.int32), items.shape)
        return cls(items.astype(np.int64), labels, np.full(items.shape, reason, np.int8))

    @classmethod
    def concatenate(cls, parts: "Sequence[DrawnItems]", axis: int = 0) -> "DrawnItems":
        return cls(*(np.concatenate(columns, axis=axis) for columns in zip(*parts, strict=True)))


def label_quotas(sizes: np.ndarray, slots: int, weights: str = "sqrt") -> np.ndarray:
    """Return how often each label comes (L,): once, and the remaining slots by its size and LABEL_WEIGHTS.

    With fewer slots than labels, every label gets 1, so the sum exceeds `slots`.
    """
    remaining = slots - len(sizes)
    if remaining <= 0:
        return np.ones(len(sizes), np.int64)
    weight = LABEL_WEIGHTS[weights](sizes)
    exact = remaining * weight / weight.sum()
    quotas = np.floor(exact).astype(np.int64)
    # Largest remainders get the slots that rounding down left; a stable sort makes ties reproducible.
    quotas[np.argsort(quotas - exact, kind="stable")[: remaining - quotas.sum()]] += 1
    return quotas + 1


def spread_repeats(draws: DrawnItems, parts: list[tuple[int, int]], dice: np.random.Generator) -> None:
    """Swap negatives that repeat in a step, draws (K, W, B), with other steps within the same part; in place."""
    steps, first = len(draws.items), parts[0][0]
    negatives = draws.items[:, :, first:].reshape(steps, -1)  # (K, W * negatives)
    in_order = np.sort(negatives, axis=1)
    for step in np.flatnonzero((in_order[:, 1:] == in_order[:, :-1]).any(axis=1)).tolist():
        for begin, end in reversed(parts):
            _swap_repeats(draws, step, first, begin, end, dice)


def _swap_repeats(draws: DrawnItems, step: int, first: int, begin: int, end: int, dice: np.random.Generator) -> None:
    """Swap items in columns `begin` to `end` of a step that repeat a column from `first` on; in place."""
    for rank, column in np.ndindex(draws.items.shape[1], end - begin):
        column += begin
        step_items = draws.items[step, :, first:]  # a view: it shows earlier swaps
        item = draws.items[step, rank, column]
        if np.count_nonzero(step_items == item) < 2:
            continue
        # The repeat stays if none of the tried steps can take it: the pool is too small then.
        for other in dice.permutation(len(draws.items))[:TRIES].tolist():
            if other == step or (draws.items[other, :, first:] == item).any():
                continue
            fits = ~np.isin(draws.items[other, :, begin:end], step_items)
            if fits.any():
                other_rank, other_column = divmod(int(dice.choice(np.flatnonzero(fits))), end - begin)
                for values in draws:
                    swapped = values[other, other_rank, begin + other_column]
                    values[other, other_rank, begin + other_column] = values[step, rank, column]
                    values[step, rank, column] = swapped
                break
