"""The order of training: which item comes when, and with which seed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Sampler, SequentialSampler

from system.storage import S3FileManager, is_remote
from system.text import plural

SHARDS_TOGETHER = 2  # whose items are shuffled among each other, where data are read shard by shard
BATCHES_PER_POOL = 50  # batches; items are grouped by length within a pool of this many


class LengthGroupedSampler(Sampler[tuple[int, int]]):
    """Items of similar length follow each other, so that batches need little padding.

    The order is a pure function of (seed, epoch): every rank computes the same plan, and a run that resumes in the
    middle of an epoch skips to exactly where it stopped. Each item comes with a seed of its own, from which the data
    set draws its random window; so the number of workers changes nothing. (transformers' own length grouping draws
    from a generator, whose state a checkpoint does not hold.) An incomplete last batch of fewer than `smallest_batch`
    items is left out, other ones each epoch.

    >>> [index for index, seed in LengthGroupedSampler([3, 9, 3, 9], batch_size=2, seed=0)]
    [2, 0, 1, 3]
    """

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
        return order[: len(self)], generator.integers(2**63, size=count)[: len(self)]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, seeds = self.plan()
        return zip(order.tolist(), seeds.tolist(), strict=True)

    def __len__(self) -> int:
        count, rest = len(self.lengths), len(self.lengths) % self.batch_size
        return count - rest if rest < self.smallest_batch else count


class ShardedSampler(Sampler[tuple[int, int]]):
    """Items shard by shard, in an order in which batch k * world + r is of shards that belong to rank r.

    Shard s belongs to rank s % world, in every epoch, so that a rank meets the shards again that it has copies of. An
    epoch shuffles the shards of each rank, and the items of SHARDS_TOGETHER of them among each other. The order is a
    pure function of (seed, epoch, world size), and items come with seeds, as in `LengthGroupedSampler`.

    Ranks have equally many whole batches: each item comes once an epoch, and then those of the last shards again, as
    often as it takes to be as long as the longest rank; `repeated` says how many these are.

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
                f"streaming: items to train on are in {plural(len(numbers), 'shard')}, and not each of {world_size} "
                "processes has one; start fewer"
            )
        self.total = len(self.plan()[0])
        self.repeated = self.total - len(self.shards)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose plan the next iteration yields; calling it again changes nothing."""
        self.epoch = epoch

    def plan(self) -> tuple[np.ndarray, np.ndarray]:
        """Order of the items and the seed of each position: two arrays of the epoch's length."""
        generator = np.random.default_rng([self.seed, self.epoch])
        orders = []
        for own in self.own:
            shuffled = generator.permutation(own)
            together = [shuffled[i : i + SHARDS_TOGETHER] for i in range(0, len(own), SHARDS_TOGETHER)]
            orders.append([generator.permutation(np.flatnonzero(np.isin(self.shards, some))) for some in together])
        order = dealt_batches([(np.concatenate(parts), parts[-1]) for parts in orders], self.batch_size)
        return order, generator.integers(2**63, size=len(order))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, seeds = self.plan()
        return zip(order.tolist(), seeds.tolist(), strict=True)

    def __len__(self) -> int:
        return self.total


def dealt_batches(orders: Sequence[tuple[np.ndarray, np.ndarray]], batch_size: int) -> np.ndarray:
    """One order of items in which batch k * world + r is rank r's, as Accelerate deals them.

    Args:
        orders: of each rank its items, and those that it repeats until all ranks have equally many whole batches.
    """
    batches = -(-max(len(items) for items, _ in orders) // batch_size)
    padded = [np.append(items, np.resize(again, batches * batch_size - len(items))) for items, again in orders]
    return np.stack([items.reshape(batches, batch_size) for items in padded], axis=1).ravel()


class EpochSampler(Protocol):
    """An order of items that is a function of the epoch."""

    def set_epoch(self, epoch: int) -> None: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


class EpochBatchSampler(EpochSampler, Protocol):
    """An order of batches that is a function of the epoch."""

    batch_size: int


class InOrder(SequentialSampler):
    """All items in their order, in every epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Nothing to choose."""


class PrefetchingSampler(Sampler[Any]):
    """A sampler's items, unchanged, the raw files of coming batches on their way.

    A plan knows which items come next, so their files can be fetched while earlier batches are worked on; this process
    asks for them, and its workers find them in the folder that they share with it. Of several ranks each asks for the
    files of its own batches, which are every `num_processes`-th. A run that resumes says by `skip` how many batches
    are only counted off, so that nobody asks for theirs.

    Args:
        files_of: the paths or URLs that the data set opens for an item; those of this machine are left alone.
        batches_ahead: batches of this process whose files are asked for before the first of their items is given out.
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
        self.items_a_batch, self.batches_ahead = batch_size, batches_ahead
        self.process_index, self.num_processes = process_index, num_processes
        self.skipped = 0  # batches of all processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose plan the next iteration yields."""
        self.sampler.set_epoch(epoch)

    def skip(self, share: float) -> None:
        """Say what share of the next iteration was worked on before: it comes again, for a loader to drop."""
        batches = -(-len(self.sampler) // (self.items_a_batch * self.num_processes))  # of each process
        self.skipped = round(share * batches) * self.num_processes

    def __iter__(self) -> Iterator[Any]:
        ahead = self.batches_ahead * self.items_a_batch * self.num_processes  # items of all processes
        coming: deque[Any] = deque()
        skipped, self.skipped = self.skipped, 0
        for place, item in enumerate(self.sampler):
            batch = place // self.items_a_batch
            if batch >= skipped and batch % self.num_processes == self.process_index:
                files = [file for file in self.files_of(item) if is_remote(file)]
                if files:  # a run whose sounds are all local needs no manager
                    S3FileManager.shared().prefetch_files(files)
            coming.append(item)
            if len(coming) > ahead:
                yield coming.popleft()
        yield from coming

    def __len__(self) -> int:
        return len(self.sampler)


class PrefetchingBatchSampler(PrefetchingSampler):
    """The same for a sampler of the batches of all ranks in turn; has what Accelerate asks of a batch sampler."""

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
        self.batch_size, self.drop_last = sampler.batch_size, False
