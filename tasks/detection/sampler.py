"""Sample batches with fixed shares of positives, strong negatives and weak negatives, covering every label.

The order is a *plan*: a pure function of (settings, pools, seed, epoch, world size, hard negatives), identical in
every process. Batch k * world + r belongs to rank r, because Accelerate distributes the batches of a batch sampler
in this way, so ranks are disjoint and have equally many steps.
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
from tasks.detection.permuting import keys_of, permute
from tasks.detection.pools import ClipPools
from tasks.detection.settings import SamplerSettings

# P members of a pool, L labels, K steps per epoch, W ranks, B items per batch, D draws


STATE_VERSION = 1
TIERS = ("positive", "tier_a", "tier_b", "weak")  # parts of a batch, in the order of its positions


class Stream(IntEnum):
    """Random streams: each choice has its own, so that it does not depend on the others."""

    POSITIVES = 0
    TIER_A = 1
    FILLING = 2  # draws by label that fill up tier B
    WEAK = 3
    EXPLICIT = 4
    STEPS = 5  # assignment of items to steps
    SEEDS = 6
    TURNS = 7  # order of labels, if an epoch has fewer slots than labels


def apportion(size: int, shares: Sequence[float], names: Sequence[str]) -> list[int]:
    """Split `size` into integers in proportion to shares, by largest remainders; at least 1 for a positive share.

    >>> apportion(32, [0.25, 0.25, 0.5], ["positive", "strong", "weak"])
    [8, 8, 16]
    """
    total = sum(shares)
    if not (total > 0 and math.isfinite(total)) or min(shares) < 0:
        raise ValueError(
            f"shares={list(shares)}: not shares of {list(names)}. Give finite numbers of 0 or more, not all 0."
        )
    exact = [size * share / total for share in shares]
    parts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: size - sum(parts)]:
        parts[i] += 1
    for part, share, name in zip(parts, shares, names, strict=True):
        if share > 0 and part == 0:
            raise ValueError(
                f"share={share:g}: less than one item of {name} in {size}. Raise the share, or the batch size."
            )
    return parts


@dataclass
class TwoTierBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yield the batches of all ranks in turn, each a list of (item, seed).

    Each batch has the same number of positives, strong negatives and weak negatives. Strong negatives have two
    tiers. Tier A draws by label: in proportion to the square root of a label's size, and each label at least once
    per epoch. Tier B takes `hard` first (negatives that the model mistakes for the target), then `explicit`
    (confirmed by an annotator), and fills the rest by label like tier A. Weak negatives are drawn by label as well.

    An epoch is one pass over the positives, or as many whole passes as `min_steps` steps need. Within a label of
    tier A or of the weak negatives, and within the positives, no item repeats before all others were drawn, across
    epochs too. No negative comes twice in one step of all ranks, if there are enough negatives.

    If an epoch has fewer slots than labels, labels take turns: each comes once in `rounds` epochs.

    Args:
        positives: items, (P,).
        strong, weak: negatives by label; the strong ones are events, the weak ones clips. A pool with share 0 may be
            empty.
        batch_size: per process.
        shares: of positives, strong and weak negatives.
        tier_a_share: of the strong negatives.
        weak_weights: key of LABEL_WEIGHTS for the labels of weak negatives.
        hard: items for tier B, hardest first; `set_hard` replaces them between epochs.
        uses: how often each hard item may come per epoch in tier B; empty: once.
        explicit: items for tier B after the hard ones.
        pool_digest: digest of the items; a saved state is only valid for the same one.
        min_steps: minimum steps per epoch, each of one batch per rank.
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
    drop_last: bool = False  # read by Accelerate

    def __post_init__(self) -> None:
        names = ("positives", "strong negatives", "weak negatives")
        self.composition = apportion(self.batch_size, self.shares, names)
        if not self.composition[0]:
            raise ValueError("positive_share=0: an epoch is a pass over the positives. Give a share above 0.")
        pools = (self.positives, self.strong.items, self.weak.items)
        for name, pool, count in zip(names, pools, self.composition, strict=True):
            if count and not len(pool):
                raise ValueError(f"{name}={len(pool)}: a batch needs {count}. Add some, or set their share to 0.")
        tiers = (self.tier_a_share, 1 - self.tier_a_share)
        strong = self.composition[1]
        self.tiers = apportion(strong, tiers, ("tier A", "tier B")) if strong else [0, 0]
        per_step = self.composition[0] * self.world_size  # positives
        # The smallest number of whole passes over the positives that gives at least min_steps steps.
        self.passes = max(math.ceil(((self.min_steps - 1) * per_step + 1) / len(self.positives)), 1)
        self.steps = math.ceil(self.passes * len(self.positives) / per_step)
        self.sampler = self  # Accelerate calls `sampler.set_epoch`
        self.first_batch = 0  # where the next iteration starts; set by load_state_dict
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
        """Make the sampler of some pools; an optimizer step uses `accumulated` batches per rank.

        Raises ValueError if a batch needs items of an empty pool.
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
        """Select the epoch of the next iteration; selecting the same epoch again changes nothing."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def set_hard(self, hard: np.ndarray, uses: np.ndarray | None = None) -> None:
        """Replace the hard negatives, hardest first, and how often each may come; call between epochs only."""
        hard = np.asarray(hard, np.int64)
        uses = np.ones(len(hard), np.int64) if uses is None else np.asarray(uses, np.int64)
        # At most 127 uses: a state stores them as int8.
        if hard.shape != uses.shape or len(np.unique(hard)) != len(hard) or not ((uses >= 1) & (uses <= 127)).all():
            raise ValueError(
                f"hard={plural(len(hard), 'item')}, uses={plural(len(uses), 'number')}: not one number from 1 to 127 "
                "per item. Give each item once, with its number of uses."
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
        """Return items and seeds of an epoch, (K * W, B) each: positives, tier A, tier B, weak negatives."""
        items = self._draw(epoch).items
        # Seeds have their own stream: they do not change with the hard negatives.
        return items, self._generator(Stream.SEEDS, epoch).integers(2**63, size=items.shape)

    @property
    def tier_names(self) -> list[str]:
        """The part of TIERS that each position of a batch belongs to (B,)."""
        counts = (self.composition[0], *self.tiers, self.composition[2])
        return [name for name, count in zip(TIERS, counts, strict=True) for _ in range(count)]

    def planned(self, epoch: int) -> dict[str, int]:
        """Count the items of an epoch by tier, and the hard and explicit negatives in tier B."""
        reasons = Counter(self._draw(epoch).reasons.ravel().tolist())
        counts = {name: count * len(self) for name, count in Counter(self.tier_names).items()}
        return dict.fromkeys(TIERS, 0) | counts | {"hard": reasons[Reason.HARD], "explicit": reasons[Reason.CHECKED]}

    def explain(self, batch: int, position: int) -> dict[str, Any]:
        """Explain a draw of this epoch: `item`, `seed`, `tier`, `label` (None for none) and `why` as text."""
        if not (0 <= batch < len(self) and 0 <= position < self.batch_size):
            raise ValueError(
                f"batch={batch}, position={position}: not in the epoch. It has "
                f"{plural(len(self), 'batch', 'batches')} of {self.batch_size} items."
            )
        draws = self._draw(self.epoch)
        item, label, reason = (int(column[batch, position]) for column in draws)
        seed = int(self._generator(Stream.SEEDS, self.epoch).integers(2**63, size=draws.items.shape)[batch, position])
        tier = self.tier_names[position]
        why = self._why(item, label, reason, tier, draws)
        return {"item": item, "seed": seed, "tier": tier, "label": None if label < 0 else label, "why": why}

    def _why(self, item: int, label: int, reason: int, tier: str, draws: DrawnItems) -> str:
        if reason == Reason.IN_TURN:
            count = len(self) * self.composition[0]
            passed = self.epoch * count / len(self.positives)
            return (
                f"in turn: {count} of {len(self.positives)} positives per epoch, {passed:.2f} passes before this epoch"
            )
        if reason == Reason.HARD:
            index = int(np.flatnonzero(self.hard == item)[0])
            rank, times = index + 1, plural(int(self.uses[index]), "time")
            return f"hard: number {rank} of {len(self.hard)} negatives mistaken for the target, up to {times}"
        if reason == Reason.CHECKED:
            return f"explicit: one of {len(self.explicit)} confirmed by an annotator"
        pool = self.weak if tier == "weak" else self.strong
        in_tier = np.array(self.tier_names) == tier
        slots = len(self) * np.count_nonzero(in_tier)
        same_label = (draws.labels == label) & (draws.reasons == Reason.BY_LABEL) & in_tier
        weights = self.weak_weights if tier == "weak" else "sqrt"
        by = {"uniform": "its size", "sqrt": "the square root of its size", "panns": "equal shares"}[weights]
        filling = " (filling tier B)" if tier == "tier_b" else ""
        return (
            f"by label{filling}: its label has {np.count_nonzero(same_label)} of {plural(int(slots), 'slot')} "
            f"(by {by}, at least one) and {plural(int(np.count_nonzero(pool.labels == label)), 'member')}"
        )

    def digest(self) -> str:
        """Return a digest of this epoch's plan; ranks with different digests would train on different plans."""
        items, seeds = self.plan(self.epoch)
        return hashlib.sha256(items.astype("<i8").tobytes() + seeds.astype("<i8").tobytes()).hexdigest()[:16]

    @property
    def rounds(self) -> int:
        """Epochs until every label of the strong negatives was drawn at least once; 0 without tier A."""
        in_batch = self.tiers[0]
        return math.ceil(len(self.strong.by_label[2]) / (len(self) * in_batch)) if in_batch else 0

    def state_dict(self, next_batch: int = 0) -> dict[str, np.ndarray]:
        """Return the state as arrays for `load_state_dict`.

        Args:
            next_batch: finished batches of this epoch over all ranks, for a loader that does not skip them
                itself. Trainer skips them, so it stays 0 there.
        """
        return {
            "version": np.array(STATE_VERSION),
            "epoch": np.array(self.epoch),
            "next_batch": np.array(next_batch),
            "made_for": np.array(json.dumps(self._plan_inputs)),
            "hard": self.hard.astype(np.int32),
            "uses": self.uses.astype(np.int8),
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Restore a state from `state_dict`; raises ValueError if it belongs to another plan."""
        if int(state["version"]) != STATE_VERSION:
            raise ValueError(
                f"version={state['version']}: the sampler reads version {STATE_VERSION}. Resume with the code that "
                "wrote the checkpoint, or start again."
            )
        # Through JSON, which turns tuples into lists, as in the saved state.
        saved, current = json.loads(str(state["made_for"])), json.loads(json.dumps(self._plan_inputs))
        for name in current:
            if saved.get(name) != current[name]:
                raise ValueError(
                    f"{name}={current[name]!r}: the plan of the checkpoint has {saved.get(name)!r}. Resume with the "
                    "same settings and data, or start again."
                )
        self.epoch, self.first_batch = int(state["epoch"]), int(state["next_batch"])
        self.set_hard(state["hard"], state["uses"])

    @functools.cached_property
    def _plan_inputs(self) -> dict[str, Any]:
        """The inputs of the plan; a saved state must agree in all of them."""
        digest = hashlib.sha256(self.pool_digest.encode())
        for column in (
            self.positives, self.strong.items, self.strong.labels, self.weak.items, self.weak.labels, self.explicit
        ):  # fmt: skip
            # Without the lengths, moving the boundary between two pools would not change the digest.
            digest.update(f"{len(column)}:".encode() + np.ascontiguousarray(column, "<i4").data)
        settings = ("batch_size", "world_size", "seed", "shares", "tier_a_share", "weak_weights", "passes")
        return {name: getattr(self, name) for name in settings} | {"the data": digest.hexdigest()[:16]}

    def _generator(self, stream: Stream, *key: int) -> np.random.Generator:
        """Return a generator that depends on its key alone, not on earlier draws."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, stream, *key])))

    def _draw(self, epoch: int) -> DrawnItems:
        """Draw all items of an epoch, (K * W, B)."""
        batches, (positive, _, weak) = len(self), self.composition
        slots = batches * positive
        in_turn = DrawnItems.of(
            self._shuffled_rounds(self.positives, epoch * slots, slots, Stream.POSITIVES), Reason.IN_TURN
        )
        parts = [
            DrawnItems(*(column.reshape(self.steps, self.world_size, positive) for column in in_turn)),
            self._assign_to_steps(
                self._by_label(self.strong, batches * self.tiers[0], epoch, Stream.TIER_A), epoch, 1
            ),
            self._assign_to_steps(self._tier_b(batches * self.tiers[1], epoch), epoch, 2),
            self._assign_to_steps(
                self._by_label(self.weak, batches * weak, epoch, Stream.WEAK, self.weak_weights), epoch, 3
            ),
        ]
        draws = DrawnItems.concatenate(parts, axis=2)  # (K, W, B)
        # Each part avoids repeats in a step, but an item can be in several parts, for example hard and weak.
        edges = np.cumsum([positive, *self.tiers, weak])
        spread_repeats(draws, list(zip(edges[:-1], edges[1:], strict=True)), self._generator(Stream.STEPS, 4, epoch))
        return DrawnItems(*(column.reshape(batches, self.batch_size) for column in draws))

    def _tier_b(self, slots: int, epoch: int) -> DrawnItems:
        """Draw hard negatives as often as each may come, then explicit ones, then others by label."""
        hard = DrawnItems.of(np.repeat(self.hard, self.uses)[:slots], Reason.HARD)
        explicit = self.explicit[~np.isin(self.explicit, self.hard)]
        count = min(len(explicit), slots - len(hard.items))
        checked = DrawnItems.of(self._shuffled_rounds(explicit, epoch * count, count, Stream.EXPLICIT), Reason.CHECKED)
        filling = self._by_label(self.strong, slots - len(hard.items) - count, epoch, Stream.FILLING)
        return DrawnItems.concatenate([hard, checked, filling])

    def _shuffled_rounds(self, members: np.ndarray, start: int, count: int, stream: Stream) -> np.ndarray:
        """Return members `start` to `start + count` of an endless sequence of shuffled rounds over all members."""
        if not count:
            return members[:0]
        rounds, places = np.divmod(np.arange(start, start + count), len(members))
        # The key contains the round, so every round has another order.
        return members[permute(places, len(members), keys_of(self.seed, stream, 0, rounds))]

    def _by_label(
        self, pool: LabelledPool, slots: int, epoch: int, stream: Stream, weights: str = "sqrt"
    ) -> DrawnItems:
        """Draw `slots` items: each label fills its quota with its members in shuffled rounds."""
        if not slots:
            return DrawnItems.of(np.zeros(0, np.int64), Reason.BY_LABEL)
        items, edges, labels = pool.by_label
        sizes = np.diff(edges)
        quotas = label_quotas(sizes, slots, weights)
        used = epoch * quotas  # draws of each label in earlier epochs
        if len(quotas) > slots:  # more labels than slots: labels take turns
            order = self._generator(Stream.TURNS, stream, len(sizes)).permutation(len(sizes))
            turn = np.argsort(order)  # (L,) position of each label in the order
            before, after = epoch * slots, (epoch + 1) * slots  # slots before and after this epoch
            used = before // len(order) + (turn < before % len(order))
            quotas = after // len(order) + (turn < after % len(order)) - used
        which = np.repeat(np.arange(len(sizes)), quotas)  # (D,)
        # The positions of a label continue after its draws in earlier epochs.
        place = np.arange(slots) - np.repeat(np.cumsum(quotas) - quotas - used, quotas)
        rounds, place = np.divmod(place, sizes[which])
        place = permute(place, sizes[which], keys_of(self.seed, stream, labels[which], rounds))
        return DrawnItems.of(items[edges[which] + place], Reason.BY_LABEL, labels[which])

    def _assign_to_steps(self, draws: DrawnItems, epoch: int, part: int) -> DrawnItems:
        """Assign draws to steps, (K, W, draws per batch), so that draws of one item get different steps.

        Draws of one item are consecutive and step k gets every K-th one, so two of them share a step only if the
        item has more draws than there are steps.
        """
        dice = self._generator(Stream.STEPS, part, epoch)
        # Sorting by a key per item shuffles the items and keeps the draws of one item together.
        shuffled = keys_of(int(dice.integers(2**63)), Stream.STEPS, draws.items, 0)
        order = np.argsort(shuffled, kind="stable").reshape(-1, self.steps).T
        order = order[dice.permutation(self.steps)].reshape(self.steps, self.world_size, -1)
        return DrawnItems(*(column[order] for column in draws))


def check_same_plan(digest: str, gather: Callable[[list[str]], list[str]]) -> None:
    """Raise RuntimeError if ranks have different plans; `gather` joins the lists of all ranks, like gather_object."""
    digests = gather([digest])
    different = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if different:
        raise RuntimeError(
            f"ranks={different}: their plan differs from that of rank 0 (digests {sorted(set(digests))}). Start all "
            "ranks with the same data, settings and versions."
        )
