"""Samplers for training: the order of the items, and a seed for each."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Sampler, SequentialSampler

from system.storage import S3FileManager, is_remote
from system.text import plural

SHARDS_TOGETHER = 2  # number of shards whose items are shuffled together; each one has to be on the local disk
BATCHES_PER_POOL = 50  # items are grouped by length within a pool of this many batches


class LengthGroupedSampler(Sampler[tuple[int, int]]):
    """Yield (index, seed) of all items, with items of similar length next to each other to reduce padding.

    The order is a pure function of (seed, epoch). So every rank computes the same plan, and a run that resumes in the
    middle of an epoch continues exactly where it stopped. The data set draws random windows from the seed of the item,
    so the result does not depend on the number of workers.

    Args:
        smallest_batch: drop the last batch of an epoch if it has fewer items.

    >>> [index for index, seed in LengthGroupedSampler([3, 9, 3, 9], batch_size=2, seed=0)]
    [2, 0, 1, 3]
    """

    # transformers' own length grouping draws from a generator whose state is not part of a checkpoint.

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int, smallest_batch: int = 1
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.smallest_batch = smallest_batch
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose plan the next iteration yields; calling it again changes nothing."""
        self.epoch = epoch

    def plan(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the items and the seed of each position: two arrays (items,)."""
        generator = np.random.default_rng([self.seed, self.epoch])
        count = len(self.lengths)
        order = generator.permutation(count)
        # Longest first within a pool. The sort is stable, so items of equal length stay shuffled.
        pool = np.arange(count) // (BATCHES_PER_POOL * self.batch_size)
        order = order[np.lexsort((-self.lengths[order], pool))]
        # Shuffle the full batches. The incomplete one has to stay last, or the loader would shift all later batches.
        full = count // self.batch_size * self.batch_size
        batches = order[:full].reshape(-1, self.batch_size)
        order = np.concatenate([generator.permutation(batches).ravel(), order[full:]])
        return order[: len(self)], generator.integers(2**63, size=count)[: len(self)]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, seeds = self.plan()
        return zip(order.tolist(), seeds.tolist(), strict=True)

    def __len__(self) -> int:
        count, rest = len(self.lengths), len(self.lengths) % self.batch_size
        return count - rest if rest < self.smallest_batch else count


class ShardedSampler(Sampler[tuple[int, int]]):
    """Yield (index, seed) of all items shard by shard, so that each rank reads only its own shards.

    Shard s belongs to rank s % world_size in every epoch, so a rank can reuse its local copies. Batch
    k * world_size + r goes to rank r. Each epoch shuffles the shards of each rank, and the items of SHARDS_TOGETHER
    shards together. The order is a pure function of (seed, epoch, world size), as in `LengthGroupedSampler`.

    All ranks have the same number of full batches. To reach it, a rank repeats items of its last shards; `repeated` is
    the number of these items over all ranks.

    >>> [index for index, seed in ShardedSampler([0, 0, 0, 1, 1], batch_size=2, seed=0, world_size=2)]
    [0, 1, 3, 4, 2, 2, 3, 4]
    """

    def __init__(self, shards: Sequence[int] | np.ndarray, batch_size: int, seed: int, world_size: int = 1) -> None:
        self.shards = np.asarray(shards)
        self.batch_size, self.seed, self.world_size = batch_size, seed, world_size
        self.epoch = 0
        numbers = np.unique(self.shards)
        self.own = [numbers[numbers % world_size == rank] for rank in range(world_size)]  # shards of each rank
        if not all(len(own) for own in self.own):
            raise ValueError(
                f"streaming: the training items are in {plural(len(numbers), 'shard')}, but there are {world_size} "
                "processes, and some of them have no shard. Start fewer processes."
            )
        self.total = len(self.plan()[0])  # the same in every epoch, so any plan will do
        self.repeated = self.total - len(self.shards)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose plan the next iteration yields; calling it again changes nothing."""
        self.epoch = epoch

    def plan(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the items and the seed of each position: two arrays (len(self),)."""
        generator = np.random.default_rng([self.seed, self.epoch])
        orders = []
        for own in self.own:
            shuffled = generator.permutation(own)
            groups = [shuffled[i : i + SHARDS_TOGETHER] for i in range(0, len(own), SHARDS_TOGETHER)]
            orders.append([generator.permutation(np.flatnonzero(np.isin(self.shards, group))) for group in groups])
        order = interleave_batches([(np.concatenate(parts), parts[-1]) for parts in orders], self.batch_size)
        return order, generator.integers(2**63, size=len(order))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, seeds = self.plan()
        return zip(order.tolist(), seeds.tolist(), strict=True)

    def __len__(self) -> int:
        return self.total


def interleave_batches(orders: Sequence[tuple[np.ndarray, np.ndarray]], batch_size: int) -> np.ndarray:
    """Return one order of items in which batch k * ranks + r belongs to rank r, as Accelerate distributes batches.

    Args:
        orders: for each rank, its items, and the items to repeat until all ranks have the same number of full batches.
    """
    batches = -(-max(len(items) for items, _ in orders) // batch_size)  # ceiling division
    padded = [np.append(items, np.resize(again, batches * batch_size - len(items))) for items, again in orders]
    return np.stack([items.reshape(batches, batch_size) for items in padded], axis=1).ravel()


class EpochSampler(Protocol):
    """A sampler of items whose order is a function of the epoch."""

    def set_epoch(self, epoch: int) -> None: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


class EpochBatchSampler(EpochSampler, Protocol):
    """A sampler of batches whose order is a function of the epoch."""

    batch_size: int


class InOrder(SequentialSampler):
    """A sequential sampler that can be used where an `EpochSampler` is needed."""

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order is the same in every epoch."""


class PrefetchingSampler(Sampler[Any]):
    """Yield the items of a sampler unchanged, and download the raw files of the next batches in the background.

    The main process downloads the files to a folder that it shares with its loader workers. Each rank downloads only
    the files of its own batches, which are every `num_processes`-th.

    Args:
        files_of: returns the paths or URLs that the data set opens for an item; local files are ignored.
        batches_ahead: number of batches of this process that are requested before the first of their items is yielded.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        files_of: Callable[[Any], Iterable[str]],
        batch_size: int,
        batches_ahead: int,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.sampler, self.files_of = sampler, files_of
        self.items_per_batch, self.batches_ahead = batch_size, batches_ahead
        self.process_index, self.num_processes = process_index, num_processes
        self.skipped = 0  # batches of all processes

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def skip(self, share: float) -> None:
        """Do not download files for the first `share` (0 to 1) of the next iteration.

        A resumed run yields the items of the finished batches again, and the loader drops them.
        """
        batches = -(-len(self.sampler) // (self.items_per_batch * self.num_processes))  # per process, rounded up
        self.skipped = round(share * batches) * self.num_processes

    def __iter__(self) -> Iterator[Any]:
        ahead = self.batches_ahead * self.items_per_batch * self.num_processes  # items of all processes
        coming: deque[Any] = deque()  # items whose files are requested, and that are not yielded yet
        skipped, self.skipped = self.skipped, 0
        for position, item in enumerate(self.sampler):
            batch = position // self.items_per_batch
            if batch >= skipped and batch % self.num_processes == self.process_index:
                files = [file for file in self.files_of(item) if is_remote(file)]
                if files:  # do not create an S3 client for a run whose files are all local
                    S3FileManager.shared().prefetch_files(files)
            coming.append(item)
            if len(coming) > ahead:
                yield coming.popleft()
        yield from coming

    def __len__(self) -> int:
        return len(self.sampler)


class PrefetchingBatchSampler(PrefetchingSampler):
    """`PrefetchingSampler` for a batch sampler. Batch k * num_processes + r belongs to rank r."""

    def __init__(
        self,
        sampler: EpochBatchSampler,
        files_of: Callable[[Any], Iterable[str]],
        batches_ahead: int,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        def files_of_batch(batch: list[Any]) -> Iterator[str]:
            return (file for item in batch for file in files_of(item))

        super().__init__(sampler, files_of_batch, 1, batches_ahead, process_index, num_processes)
        self.batch_size, self.drop_last = sampler.batch_size, False  # Accelerate reads both from a batch sampler
