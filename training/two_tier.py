"""Batches with a fixed share of positives, strong negatives and weak negatives, in which every label has its turn.

The order is a *plan*: a pure function of (settings, pools, seed, epoch, world size, hard negatives), the same in every
process. Batch k * world + r belongs to rank r, which is how Accelerate deals out a batch sampler's batches, so ranks
are disjoint and have equally many steps.
"""

# P pools' members, L labels, K steps of an epoch, W ranks, B items of a batch

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Sampler

POSITIVES, STRONG, WEAK, MIXING, SEEDS, ROUNDS = range(6)  # streams of random numbers, each of its own


@dataclass(frozen=True)
class LabelledPool:
    """Negatives that are drawn by label: member m is item `items[m]` of the data set and belongs to label `labels[m]`.

    An item with several labels is a member for each of them.
    """

    items: np.ndarray  # (P,) int
    labels: np.ndarray  # (P,) int

    @functools.cached_property
    def by_label(self) -> tuple[np.ndarray, np.ndarray]:
        """Items grouped by label (P,), and where each label's begin (L + 1,); labels without members are left out."""
        order = np.argsort(self.labels, kind="stable")
        _, counts = np.unique(self.labels, return_counts=True)
        return self.items[order], np.concatenate(([0], np.cumsum(counts)))


def apportion(size: int, shares: Sequence[float], names: Sequence[str]) -> list[int]:
    """Whole numbers in proportion to shares that add up to `size`, by largest remainders; each at least 1.

    >>> apportion(32, [0.25, 0.25, 0.5], ["positive", "strong", "weak"])
    [8, 8, 16]
    """
    total = sum(shares)
    if not total > 0 or min(shares) < 0:
        raise ValueError(f"shares {list(shares)} of {list(names)} must be numbers of 0 or more, not all 0")
    exact = [size * share / total for share in shares]
    parts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: size - sum(parts)]:
        parts[i] += 1
    for part, share, name in zip(parts, shares, names, strict=True):
        if share > 0 and part == 0:
            raise ValueError(
                f"the share {share:g} of {name} is less than one item of {size}; raise it, or the batch size"
            )
    return parts


@dataclass
class TwoTierBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields the batches of all ranks in turn, each a list of (item, seed).

    Each batch has the same number of positives, strong negatives and weak negatives. Strong negatives come in two
    tiers: A by label, in proportion to the root of a label's size and each label at least once an epoch; B from
    `hard`, the negatives that a model takes for the target, topped up by tier A where there are too few. Weak
    negatives come by label as tier A does. An epoch is one pass over the positives. Within a label and within the
    positives nothing comes again before all else has come, across epochs too (for tier A, while tier B is equally
    full); no negative comes twice in one step of all ranks, if there are enough.

    Where an epoch has fewer slots than labels, labels take turns: each comes once in `rounds` epochs.

    Args:
        positives: items, (P,).
        strong, weak: negatives by label; events, and clips.
        batch_size: of one process.
        shares: of positives, strong and weak negatives.
        tier_a_share: of the strong negatives.
        hard: items for tier B, the hardest first; set anew between epochs by whoever mines them.
        max_uses: how often a hard negative may come in an epoch.
    """

    positives: np.ndarray
    strong: LabelledPool
    weak: LabelledPool
    batch_size: int
    seed: int
    world_size: int = 1
    shares: tuple[float, float, float] = (0.25, 0.25, 0.5)
    tier_a_share: float = 0.6
    hard: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    max_uses: int = 2
    epoch: int = 0
    drop_last: bool = False  # Accelerate asks

    def __post_init__(self) -> None:
        for name, pool in (("positives", self.positives), ("strong", self.strong.items), ("weak", self.weak.items)):
            if not len(pool):
                raise ValueError(f"there are no {name} items; a batch needs some")
        names = ("positives", "strong negatives", "weak negatives")
        self.composition = apportion(self.batch_size, self.shares, names)
        tiers = (self.tier_a_share, 1 - self.tier_a_share)
        self.tiers = apportion(self.composition[1], tiers, ("tier A", "tier B"))
        self.steps = math.ceil(len(self.positives) / (self.composition[0] * self.world_size))
        self.sampler = self  # where Accelerate looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose plan the next iteration yields; calling it again changes nothing."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        items, seeds = self.plan(self.epoch)
        for batch, drawn in zip(items, seeds, strict=True):
            yield list(zip(batch.tolist(), drawn.tolist(), strict=True))

    def plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Items and seeds of an epoch, (K * W, B) each: positives, tier A, tier B, weak negatives in this order."""
        batches, (positive, _, weak) = len(self), self.composition
        hard, by_label = self._tier_b(batches, epoch)
        strong = self._by_label(self.strong, batches * self.tiers[0] + by_label, epoch, STRONG)
        split = batches * self.tiers[0]
        parts = [
            self._positives(batches * positive, epoch).reshape(batches, -1),
            strong[:split].reshape(batches, -1),
            self._mixed(np.concatenate([hard, strong[split:]]), epoch, 0).reshape(batches, -1),
            self._by_label(self.weak, batches * weak, epoch, WEAK).reshape(batches, -1),
        ]
        items = np.concatenate(parts, axis=1)
        self._spread_repeats(items, epoch)
        seeds = self._random(SEEDS, epoch).integers(2**63, size=items.shape)
        return items, seeds

    def digest(self) -> str:
        """Of the plan of this epoch; ranks whose digests differ would train on different plans."""
        items, seeds = self.plan(self.epoch)
        return hashlib.sha256(items.astype("<i8").tobytes() + seeds.astype("<i8").tobytes()).hexdigest()[:16]

    @property
    def rounds(self) -> int:
        """Epochs in which every label of the strong negatives comes at least once."""
        labels = len(np.unique(self.strong.labels))
        return math.ceil(labels / (len(self) * self.tiers[0]))

    def _random(self, stream: int, *place: int) -> np.random.Generator:
        """Numbers that belong to a place, not to what was drawn before."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, stream, *place])))

    def _cycled(self, members: np.ndarray, start: int, count: int, *place: int) -> np.ndarray:
        """Members start to start + count of an endless row of shuffled rounds over all of them."""
        rounds = range(start // len(members), -(-(start + count) // len(members)))
        row = np.concatenate([self._random(ROUNDS, *place, r).permutation(members) for r in rounds] or [members[:0]])
        skipped = start - rounds.start * len(members)
        return row[skipped : skipped + count]

    def _positives(self, count: int, epoch: int) -> np.ndarray:
        return self._cycled(self.positives, epoch * count, count, POSITIVES)

    def _tier_b(self, batches: int, epoch: int) -> tuple[np.ndarray, int]:
        """Hard negatives of an epoch, and how many slots they leave to tier A."""
        slots = batches * self.tiers[1]
        uses = np.tile(self.hard, self.max_uses)[:slots]
        return self._mixed(uses, epoch, 1), slots - len(uses)

    def _by_label(self, pool: LabelledPool, slots: int, epoch: int, stream: int) -> np.ndarray:
        """So many items, each label as often as the root of its size asks for."""
        items, edges = pool.by_label
        sizes = np.diff(edges)
        quotas = label_quotas(sizes, slots)
        if len(quotas) > slots:  # labels take turns
            order = self._random(stream, len(sizes)).permutation(len(sizes))
            turn = np.take(order, np.arange(epoch * slots, (epoch + 1) * slots), mode="wrap")
            quotas = np.bincount(turn, minlength=len(sizes))
            used = np.array([_uses_before(order, label, epoch * slots) for label in range(len(sizes))])
        else:
            used = epoch * quotas
        drawn = [
            self._cycled(items[edges[label] : edges[label + 1]], int(used[label]), int(quotas[label]), stream, label)
            for label in np.flatnonzero(quotas)
        ]
        return self._mixed(np.concatenate(drawn) if drawn else items[:0], epoch, 2 + stream)

    def _mixed(self, items: np.ndarray, epoch: int, part: int) -> np.ndarray:
        return self._random(MIXING, part, epoch).permutation(items)

    def _spread_repeats(self, items: np.ndarray, epoch: int) -> None:
        """Swap negatives that come twice in a step of all ranks with ones of their kind in other steps; in place."""
        positive, strong, _ = self.composition
        dice = self._random(MIXING, 9, epoch)
        in_steps = items.reshape(self.steps, self.world_size, -1)  # a view
        for first, last in ((positive, positive + strong), (positive + strong, self.batch_size)):
            for step in range(self.steps):
                _swap_repeats(in_steps, step, first, last, dice)


def label_quotas(sizes: np.ndarray, slots: int) -> np.ndarray:
    """How often each label comes (L,): once, and what is left in proportion to the root of its size.

    With fewer slots than labels it is 1 for each, more than there is room for.
    """
    rest = slots - len(sizes)
    if rest <= 0:
        return np.ones(len(sizes), np.int64)
    exact = rest * np.sqrt(sizes) / np.sqrt(sizes).sum()
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: rest - quotas.sum()]] += 1
    return quotas + 1


def _uses_before(order: np.ndarray, label: int, count: int) -> int:
    """How often a label is among the first `count` of an endlessly repeated order."""
    place = int(np.flatnonzero(order == label)[0])
    return count // len(order) + int(place < count % len(order))


def _swap_repeats(items: np.ndarray, step: int, first: int, last: int, dice: np.random.Generator) -> None:
    """Exchange what comes again in a step's columns first to last, items (K, W, B), with another step's; in place."""
    block = items[step, :, first:last]
    _, places = np.unique(block, return_index=True)
    for again in np.setdiff1d(np.arange(block.size), places):
        rank, column = divmod(int(again), last - first)
        mine = items[step, rank, first + column]
        for other in dice.permutation(len(items))[:20]:  # a few tries: where all steps are full of it, it stays
            there = items[other, :, first:last]
            candidates = np.flatnonzero(~np.isin(there, block))
            if other == step or not len(candidates) or mine in there:
                continue
            other_rank, other_column = divmod(int(dice.choice(candidates)), last - first)
            items[step, rank, first + column] = items[other, other_rank, first + other_column]
            items[other, other_rank, first + other_column] = mine
            break
