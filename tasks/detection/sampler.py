"""Batches with a fixed share of positives, strong negatives and weak negatives, in which every label has its turn.

The order is a *plan*: a pure function of (settings, pools, seed, epoch, world size, hard negatives), the same in every
process. Batch k * world + r belongs to rank r, which is how Accelerate deals out a batch sampler's batches, so ranks
are disjoint and have equally many steps.
"""

import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from system.text import plural
from tasks.detection.draws import DrawnItems, Reason, label_quotas, spread_repeats
from tasks.detection.items import LabelledPool
from tasks.detection.permuting import keys_of, permuted_places
from tasks.detection.pools import ClipPools
from tasks.detection.settings import SamplerSettings

# P pools' members, L labels, K steps of an epoch, W ranks, B items of a batch, D draws


STATE_VERSION = 1
TIERS = ("positive", "tier_a", "tier_b", "weak")  # the parts of a batch, in the order of its places


class Stream(IntEnum):
    """Streams of random numbers: a choice draws from its own, so that it does not depend on the others."""

    POSITIVES = 0
    TIER_A = 1
    FILLING = 2  # of tier B by label
    WEAK = 3
    EXPLICIT = 4
    DEALING = 5  # of items to steps
    SEEDS = 6
    TURNS = 7  # of labels, where an epoch has fewer slots


def apportion(size: int, shares: Sequence[float], names: Sequence[str]) -> list[int]:
    """Whole numbers in proportion to shares that add up to `size`, by largest remainders; at least 1 unless it is 0.

    >>> apportion(32, [0.25, 0.25, 0.5], ["positive", "strong", "weak"])
    [8, 8, 16]
    """
    total = sum(shares)
    if not (total > 0 and math.isfinite(total)) or min(shares) < 0:
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
    `hard`, the negatives that a model takes for the target, then from `explicit`, those that a person checked, and
    where these are too few by label as tier A does. Weak negatives come by label too. An epoch is one pass over the
    positives, or whole passes until it has `min_steps` steps. Within a label of tier A or of the weak
    negatives, and within the positives, nothing comes again before all else has come, across epochs too; no negative
    comes twice in one step of all ranks, if there are enough.

    Where an epoch has fewer slots than labels, labels take turns: each comes once in `rounds` epochs.

    Args:
        positives: items, (P,).
        strong, weak: negatives by label; events, and clips. A pool with the share 0 may be empty.
        batch_size: of one process.
        shares: of positives, strong and weak negatives.
        tier_a_share: of the strong negatives.
        weak_weights: of the weak negatives' labels, of LABEL_WEIGHTS.
        hard: items for tier B, the hardest first; `set_hard` exchanges them between epochs.
        uses: how often each of them may come in an epoch through tier B; empty: once.
        explicit: items for tier B after the hard ones.
        pool_digest: of what the items are; a state belongs to it.
        min_steps: fewest steps of an epoch, each of one batch per rank.
    """

    positives: np.ndarray
    strong: LabelledPool
    weak: LabelledPool
    batch_size: int
    seed: int
    world_size: int = 1
    shares: tuple[float, float, float] = (0.25, 0.25, 0.5)
    tier_a_share: float = 0.6
    weak_weights: str = "sqrt"
    hard: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    uses: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    explicit: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pool_digest: str = ""
    min_steps: int = 1
    epoch: int = 0
    drop_last: bool = False  # Accelerate asks

    def __post_init__(self) -> None:
        names = ("positives", "strong negatives", "weak negatives")
        self.composition = apportion(self.batch_size, self.shares, names)
        if not self.composition[0]:
            raise ValueError("the share of positives is 0, but an epoch is one pass over them; raise it")
        pools = (self.positives, self.strong.items, self.weak.items)
        for name, pool, count in zip(names, pools, self.composition, strict=True):
            if count and not len(pool):
                raise ValueError(f"there are no {name}, but a batch needs {count}; give some, or their share 0")
        tiers = (self.tier_a_share, 1 - self.tier_a_share)
        strong = self.composition[1]
        self.tiers = apportion(strong, tiers, ("tier A", "tier B")) if strong else [0, 0]
        per_step = self.composition[0] * self.world_size  # positives
        self.passes = max(math.ceil(((self.min_steps - 1) * per_step + 1) / len(self.positives)), 1)
        self.steps = math.ceil(self.passes * len(self.positives) / per_step)
        self.sampler = self  # where Accelerate looks for set_epoch
        self.first_batch = 0  # of the next iteration, where a state was loaded
        self.set_hard(self.hard, self.uses if len(self.uses) else None)

    @classmethod
    def from_pools(
        cls,
        pools: ClipPools,
        settings: SamplerSettings,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        accumulated: int = 1,
    ) -> "TwoTierBatchSampler":
        """The batches of some clips, `accumulated` of a rank for each optimizer step.

        ValueError says why a pool is empty that a batch needs.
        """
        pools.check_not_empty(settings.shares)
        return cls(
            pools.positives,
            pools.strong,
            pools.weak,
            batch_size,
            seed,
            world_size,
            settings.shares,
            settings.tier_a_share,
            settings.weak_weights,
            explicit=pools.explicit,
            pool_digest=pools.digest,
            min_steps=settings.min_epoch_steps * accumulated,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose plan the next iteration yields; calling it again changes nothing."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def set_hard(self, hard: np.ndarray, uses: np.ndarray | None = None) -> None:
        """Exchange the hard negatives, the hardest first, and how often each may come; only between epochs."""
        hard = np.asarray(hard, np.int64)
        uses = np.ones(len(hard), np.int64) if uses is None else np.asarray(uses, np.int64)
        if hard.shape != uses.shape or len(np.unique(hard)) != len(hard) or not ((uses >= 1) & (uses <= 127)).all():
            raise ValueError(
                f"{len(hard)} hard negatives with {len(uses)} uses: each is named once, with 1 to 127 uses"
            )
        self.hard, self.uses = hard, uses

    def __len__(self) -> int:
        return self.steps * self.world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        items, seeds = self.plan(self.epoch)
        first, self.first_batch = self.first_batch, 0
        for batch, drawn in zip(items[first:], seeds[first:], strict=True):
            yield list(zip(batch.tolist(), drawn.tolist(), strict=True))

    def plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Items and seeds of an epoch, (K * W, B) each: positives, tier A, tier B, weak negatives in this order."""
        items = self._draw(epoch).items
        return items, self._random(Stream.SEEDS, epoch).integers(2**63, size=items.shape)

    @property
    def tier_names(self) -> list[str]:
        """What each place of a batch is for (B,), of TIERS."""
        counts = (self.composition[0], *self.tiers, self.composition[2])
        return [name for name, count in zip(TIERS, counts, strict=True) for _ in range(count)]

    def planned(self, epoch: int) -> dict[str, int]:
        """How many items an epoch has of each tier, and in tier B of hard and of explicit negatives."""
        reasons = Counter(self._draw(epoch).reasons.ravel().tolist())
        counts = {name: count * len(self) for name, count in Counter(self.tier_names).items()}
        return dict.fromkeys(TIERS, 0) | counts | {"hard": reasons[Reason.HARD], "explicit": reasons[Reason.CHECKED]}

    def explain(self, batch: int, position: int) -> dict[str, Any]:
        """Why an item of this epoch was drawn: `item`, `seed`, `tier`, `label` (None for none) and `why` in words."""
        if not (0 <= batch < len(self) and 0 <= position < self.batch_size):
            raise ValueError(
                f"batch {batch}, position {position}: an epoch has "
                f"{plural(len(self), 'batch', 'batches')} of {self.batch_size}"
            )
        draws = self._draw(self.epoch)
        item, label, reason = (int(column[batch, position]) for column in draws)
        seed = int(self._random(Stream.SEEDS, self.epoch).integers(2**63, size=draws.items.shape)[batch, position])
        tier = self.tier_names[position]
        why = self._why(item, label, reason, tier, draws)
        return {"item": item, "seed": seed, "tier": tier, "label": None if label < 0 else label, "why": why}

    def _why(self, item: int, label: int, reason: int, tier: str, draws: DrawnItems) -> str:
        if reason == Reason.IN_TURN:
            count = len(self) * self.composition[0]
            passed = self.epoch * count / len(self.positives)
            return f"in turn: {count} of {len(self.positives)} positives an epoch, {passed:.2f} passes done before"
        if reason == Reason.HARD:
            place = int(np.flatnonzero(self.hard == item)[0])
            times = plural(int(self.uses[place]), "time")
            return f"hard: {place + 1} of {len(self.hard)} negatives taken for the target, up to {times}"
        if reason == Reason.CHECKED:
            return f"explicit: one of {len(self.explicit)} that a person checked"
        pool = self.weak if tier == "weak" else self.strong
        drawn = np.array(self.tier_names) == tier
        slots, same = (
            len(self) * np.count_nonzero(drawn),
            (draws.labels == label) & (draws.reasons == Reason.BY_LABEL) & drawn,
        )
        weights = self.weak_weights if tier == "weak" else "sqrt"
        by = {"uniform": "its size", "sqrt": "the root of its size", "panns": "turns"}[weights]
        spare = ", where hard ones are too few" if tier == "tier_b" else ""
        return (
            f"by label{spare}: its label has {np.count_nonzero(same)} of {plural(int(slots), 'slot')} (by {by}, at "
            f"least one) and {plural(int(np.count_nonzero(pool.labels == label)), 'member')}"
        )

    def digest(self) -> str:
        """Of the plan of this epoch; ranks whose digests differ would train on different plans."""
        items, seeds = self.plan(self.epoch)
        return hashlib.sha256(items.astype("<i8").tobytes() + seeds.astype("<i8").tobytes()).hexdigest()[:16]

    @property
    def rounds(self) -> int:
        """Epochs in which every label of the strong negatives comes at least once; 0 where a batch has none."""
        in_batch = self.tiers[0]
        return math.ceil(len(self.strong.by_label[2]) / (len(self) * in_batch)) if in_batch else 0

    def state_dict(self, next_batch: int = 0) -> dict[str, np.ndarray]:
        """Arrays from which `load_state_dict` goes on.

        Args:
            next_batch: batches of this epoch that are done, of all ranks, for a loader that does not skip them
                itself; Trainer's does, so there it stays 0.
        """
        return {
            "version": np.array(STATE_VERSION),
            "epoch": np.array(self.epoch),
            "next_batch": np.array(next_batch),
            "made_for": np.array(json.dumps(self._made_for)),
            "hard": self.hard.astype(np.int32),
            "uses": self.uses.astype(np.int8),
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Go on where `state_dict` was called; ValueError when that was another plan."""
        if int(state["version"]) != STATE_VERSION:
            raise ValueError(f"a sampler's state of version {state['version']}, this is version {STATE_VERSION}")
        before, now = json.loads(str(state["made_for"])), json.loads(json.dumps(self._made_for))
        for name in now:
            if before.get(name) != now[name]:
                raise ValueError(
                    f"the plan was made with {name} = {before.get(name)!r}, it is {now[name]!r} now; "
                    "a run goes on with the plan that it began with"
                )
        self.epoch, self.first_batch = int(state["epoch"]), int(state["next_batch"])
        self.set_hard(state["hard"], state["uses"])

    @functools.cached_property
    def _made_for(self) -> dict[str, Any]:
        """What a state must agree in, so that its plan is this one."""
        digest = hashlib.sha256(self.pool_digest.encode())
        for column in (
            self.positives, self.strong.items, self.strong.labels, self.weak.items, self.weak.labels, self.explicit
        ):  # fmt: skip
            digest.update(f"{len(column)}:".encode() + np.ascontiguousarray(column, "<i4").data)
        settings = ("batch_size", "world_size", "seed", "shares", "tier_a_share", "weak_weights", "passes")
        return {name: getattr(self, name) for name in settings} | {"the data": digest.hexdigest()[:16]}

    def _random(self, stream: Stream, *place: int) -> np.random.Generator:
        """Numbers that belong to a place, not to what was drawn before."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, stream, *place])))

    def _draw(self, epoch: int) -> DrawnItems:
        """All items of an epoch and why they are there, (K * W, B)."""
        batches, (positive, _, weak) = len(self), self.composition
        slots = batches * positive
        in_turn = DrawnItems.of(self._cycled(self.positives, epoch * slots, slots, Stream.POSITIVES), Reason.IN_TURN)
        parts = [
            DrawnItems(*(column.reshape(self.steps, self.world_size, positive) for column in in_turn)),
            self._deal(self._by_label(self.strong, batches * self.tiers[0], epoch, Stream.TIER_A), epoch, 1),
            self._deal(self._tier_b(batches * self.tiers[1], epoch), epoch, 2),
            self._deal(self._by_label(self.weak, batches * weak, epoch, Stream.WEAK, self.weak_weights), epoch, 3),
        ]
        draws = DrawnItems.joined(parts, axis=2)  # (K, W, B)
        edges = np.cumsum([positive, *self.tiers, weak])
        spread_repeats(draws, list(zip(edges[:-1], edges[1:], strict=True)), self._random(Stream.DEALING, 4, epoch))
        return DrawnItems(*(column.reshape(batches, self.batch_size) for column in draws))

    def _tier_b(self, slots: int, epoch: int) -> DrawnItems:
        """The hardest negatives as often as each may come, then explicit ones, then others by label."""
        hard = DrawnItems.of(np.repeat(self.hard, self.uses)[:slots], Reason.HARD)
        others = self.explicit[~np.isin(self.explicit, self.hard)]
        count = min(len(others), slots - len(hard.items))
        checked = DrawnItems.of(self._cycled(others, epoch * count, count, Stream.EXPLICIT), Reason.CHECKED)
        filling = self._by_label(self.strong, slots - len(hard.items) - count, epoch, Stream.FILLING)
        return DrawnItems.joined([hard, checked, filling])

    def _cycled(self, members: np.ndarray, start: int, count: int, stream: Stream) -> np.ndarray:
        """Members start to start + count of an endless row of shuffled rounds over all of them."""
        if not count:
            return members[:0]
        rounds, places = np.divmod(np.arange(start, start + count), len(members))
        return members[permuted_places(places, len(members), keys_of(self.seed, stream, 0, rounds))]

    def _by_label(
        self, pool: LabelledPool, slots: int, epoch: int, stream: Stream, weights: str = "sqrt"
    ) -> DrawnItems:
        """So many items, each label as often as its size asks for; within it in shuffled rounds."""
        if not slots:
            return DrawnItems.of(np.zeros(0, np.int64), Reason.BY_LABEL)
        items, edges, labels = pool.by_label
        sizes = np.diff(edges)
        quotas = label_quotas(sizes, slots, weights)
        used = epoch * quotas
        if len(quotas) > slots:  # labels take turns
            order = self._random(Stream.TURNS, stream, len(sizes)).permutation(len(sizes))
            place = np.argsort(order)
            before, after = ((number * slots) for number in (epoch, epoch + 1))
            used = before // len(order) + (place < before % len(order))
            quotas = after // len(order) + (place < after % len(order)) - used
        which = np.repeat(np.arange(len(sizes)), quotas)  # (D,)
        place = np.arange(slots) - np.repeat(np.cumsum(quotas) - quotas - used, quotas)
        rounds, place = np.divmod(place, sizes[which])
        place = permuted_places(place, sizes[which], keys_of(self.seed, stream, labels[which], rounds))
        return DrawnItems.of(items[edges[which] + place], Reason.BY_LABEL, labels[which])

    def _deal(self, draws: DrawnItems, epoch: int, part: int) -> DrawnItems:
        """Spread draws over the steps, (K, W, draws of a batch), an item that comes again to another step.

        Draws of one item stand together and are dealt like cards, so that they meet in one step only if the item
        comes more often than there are steps.
        """
        dice = self._random(Stream.DEALING, part, epoch)
        shuffled = keys_of(int(dice.integers(2**63)), Stream.DEALING, draws.items, 0)
        order = np.argsort(shuffled, kind="stable").reshape(-1, self.steps).T
        order = order[dice.permutation(self.steps)].reshape(self.steps, self.world_size, -1)
        return DrawnItems(*(column[order] for column in draws))


def check_same_plan(digest: str, gather: Callable[[list[str]], list[str]]) -> None:
    """Refuse to train where ranks have different plans; `gather` joins every rank's list, as gather_object does."""
    found = gather([digest])
    others = [rank for rank, other in enumerate(found) if other != found[0]]
    if others:
        raise RuntimeError(
            f"ranks {others} have another plan than rank 0 (digests {sorted(set(found))}): their data, settings or "
            "versions differ; start all of them with the same"
        )
