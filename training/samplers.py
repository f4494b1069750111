"""The order of training: which item comes when, and with which seed."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

BATCHES_PER_POOL = 50  # batches; items are grouped by length within a pool of this many


class LengthGroupedSampler(Sampler[tuple[int, int]]):
    """Items of similar length follow each other, so that batches need little padding.

    The order is a pure function of (seed, epoch): every rank computes the same plan, and a run that resumes in the
    middle of an epoch skips to exactly where it stopped. Each item comes with a seed of its own, from which the data
    set draws its random window; so the number of workers changes nothing. (transformers' own length grouping draws
    from a generator, whose state a checkpoint does not hold.)

    >>> [index for index, seed in LengthGroupedSampler([3, 9, 3, 9], batch_size=2, seed=0)]
    [2, 0, 1, 3]
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose plan the next iteration yields; calling it again changes nothing."""
        self.epoch = epoch

    def plan(self) -> tuple[np.ndarray, np.ndarray]:
        """Order of the items and the seed of each position: two arrays (items,)."""
        generator = np.random.default_rng([self.seed, self.epoch])
        count = len(self.lengths)
        order = generator.permutation(count)
        # Longest first within a pool; the stable sort keeps the shuffle among equals.
        pool = np.arange(count) // (BATCHES_PER_POOL * self.batch_size)
        order = order[np.lexsort((-self.lengths[order], pool))]
        # Whole batches are shuffled; the last, incomplete one stays last.
        whole = count // self.batch_size * self.batch_size
        batches = order[:whole].reshape(-1, self.batch_size)
        order = np.concatenate([generator.permutation(batches).ravel(), order[whole:]])
        return order, generator.integers(2**63, size=count)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, seeds = self.plan()
        return zip(order.tolist(), seeds.tolist(), strict=True)

    def __len__(self) -> int:
        return len(self.lengths)
