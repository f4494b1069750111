"""Windows of clips that a sampler can draw, and how clips and their events become such."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np

from tasks.detection.columns import ClipColumns

# R rows of the data set, N items, E events


TOLERANCE = 1e-3  # s: frames that are so near each other touch, and events that overlap by less do not
LONGEST = 1e5  # s, above any file's length: rows are told apart by it where times of all rows are sorted together


class Kind(IntEnum):
    """Whether an item holds the target, and how that is known."""

    POSITIVE = 0
    STRONG = 1  # the event of another sound
    WEAK = 2  # a clip without the target, anywhere in it
    EXPLICIT = 3  # a person checked that the target is not there


KIND_NAMES = ("positive", "strong negative", "weak negative", "explicit negative")


@dataclass(frozen=True)
class Items:
    """Windows that can be drawn, one an entry of each column (N,)."""

    clip: np.ndarray  # int32, row of the data set
    start: np.ndarray  # float32, s in the file; NaN: anywhere in it, for weak labels of either kind
    end: np.ndarray  # float32, s in the file; NaN as above
    kind: np.ndarray  # int8
    label: np.ndarray  # int16, code of the event's label, the target's for positives, a weak clip's rarest

    def __len__(self) -> int:
        return len(self.clip)

    @classmethod
    def of(cls, clip: np.ndarray, start: np.ndarray, end: np.ndarray, kind: Kind, label: np.ndarray) -> "Items":
        """Return items of one kind."""
        return cls(
            clip=clip.astype(np.int32, copy=False),
            start=start.astype(np.float32, copy=False),
            end=end.astype(np.float32, copy=False),
            kind=np.full(len(clip), kind, np.int8),
            label=label.astype(np.int16),
        )

    @classmethod
    def anywhere(cls, clip: np.ndarray, kind: Kind, label: np.ndarray) -> "Items":
        """Items of one kind that lie anywhere in their clips."""
        unknown = np.full(len(clip), np.nan, np.float32)
        return cls.of(clip, unknown, unknown, kind, label)

    @classmethod
    def joined(cls, parts: "Sequence[Items]") -> "Items":
        """One after the other."""
        return cls(*(np.concatenate(columns) for columns in zip(*(part.columns() for part in parts), strict=True)))

    def columns(self) -> tuple[np.ndarray, ...]:
        """clip, start, end, kind and label."""
        return tuple(getattr(self, column.name) for column in fields(self))

    def targets(self) -> np.ndarray:
        """1 where the target is heard, else 0 (N,) float32."""
        return (self.kind == Kind.POSITIVE).astype(np.float32)

    def take(self, which: np.ndarray) -> "Items":
        """Some items, by number or by a mask."""
        return Items(*(column[which] for column in self.columns()))


def event_items(clips: ClipColumns, which: np.ndarray, kind: Kind) -> Items:
    """Some events (E,) bool as items."""
    return Items.of(
        clips.event_rows[which], clips.event_start[which], clips.event_end[which], kind, clips.event_codes[which]
    )


def target_clips(clips: ClipColumns, which: np.ndarray, targets: Sequence[int]) -> Items:
    """Those of some rows (R,) bool that have a weak label of the target, as positives from anywhere in them."""
    label = np.full(len(clips), -1, np.int16)
    for code in reversed(targets):
        label[clips.with_labels([code])] = code
    rows = np.flatnonzero(which & (label >= 0))
    return Items.anywhere(rows, Kind.POSITIVE, label[rows])


def weak_clips(clips: ClipColumns, which: np.ndarray, first: int) -> tuple[Items, np.ndarray, np.ndarray]:
    """Some rows (R,) bool that have weak labels, as weak negatives under their rarest label.

    Returns:
        the items, and for each pair of an item and one of its labels the item's number, counted from `first`, and the
        label.
    """
    by_rarity = np.argsort(clips.label_counts, kind="stable").astype(np.int16)
    rarity = np.argsort(by_rarity, kind="stable").astype(np.int16)
    found: list[tuple[np.ndarray, ...]] = [
        (np.zeros(0, np.int64), *[np.zeros(0, np.int16)] * 2, np.zeros(0, np.int32))
    ]
    for rows, pairs in clips.blocks():
        chosen, lengths = which[rows], np.diff(clips.edges[rows.start : rows.stop + 1])
        labels, lengths = clips.codes[pairs][np.repeat(chosen, lengths)], lengths[chosen]
        if len(lengths):
            rarest = np.minimum.reduceat(rarity[labels], np.cumsum(lengths) - lengths)
            found.append((rows.start + np.flatnonzero(chosen), by_rarity[rarest], labels, lengths))
    rows, rarest, labels, lengths = (np.concatenate(column) for column in zip(*found, strict=True))
    numbers = np.repeat(np.arange(first, first + len(rows), dtype=np.int32), lengths)
    return Items.anywhere(rows, Kind.WEAK, rarest), numbers, labels


def checked_runs(clips: ClipColumns, train: np.ndarray, targets: Sequence[int], clip_seconds: float) -> Items:
    """Stretches of at least `clip_seconds` in which a person checked that the target is not there.

    Frames that follow each other make a run; those that touch an event of the target are left out. Where the target is
    several labels, a clip with a weak label for another of them is left out too.
    """
    is_target = np.isin(clips.event_codes, targets)
    checked = is_target & ~clips.present & train[clips.event_rows]
    checked &= ~_overlap(clips, checked, is_target & clips.present)
    for code in targets if len(targets) > 1 and checked.any() else ():
        others = clips.with_labels([other for other in targets if other != code])
        checked &= ~((clips.event_codes == code) & others[clips.event_rows])
    frames = event_items(clips, checked, Kind.EXPLICIT)
    frames = frames.take(np.lexsort((frames.start, frames.label, frames.clip)))
    if not len(frames):
        return frames
    begins = np.ones(len(frames), bool)
    begins[1:] = (np.diff(frames.clip) != 0) | (np.diff(frames.label) != 0)
    begins[1:] |= frames.start[1:] > frames.end[:-1] + TOLERANCE
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(frames)) - 1
    long_enough = frames.end[last] - frames.start[first] >= clip_seconds - TOLERANCE
    first, last = first[long_enough], last[long_enough]
    return Items.of(frames.clip[first], frames.start[first], frames.end[last], Kind.EXPLICIT, frames.label[first])


def _overlap(clips: ClipColumns, which: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of some events (E,) bool overlap one of the others in their row, (E,) bool."""
    begins, ends = (
        [clips.event_rows[some] * LONGEST + times[some].astype(np.float64) for some in (which, others)]
        for times in (clips.event_start, clips.event_end)
    )
    begun = np.searchsorted(np.sort(begins[1]), ends[0] - TOLERANCE)
    ended = np.searchsorted(np.sort(ends[1]), begins[0] + TOLERANCE, side="right")
    found = np.zeros(len(which), bool)
    found[which] = begun > ended  # more have begun before its end than have ended before its beginning
    return found


@dataclass(frozen=True)
class LabelledPool:
    """Negatives that are drawn by label: member m is item `items[m]` of the data set and belongs to label `labels[m]`.

    An item with several labels is a member for each of them.
    """

    items: np.ndarray  # (P,) int
    labels: np.ndarray  # (P,) int

    @functools.cached_property
    def by_label(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items grouped by label (P,), where each label's begin (L + 1,), and labels (L,), those without items not."""
        order = np.argsort(self.labels, kind="stable")
        counts = np.bincount(self.labels)
        labels = np.flatnonzero(counts)
        return self.items[order], np.concatenate(([0], np.cumsum(counts[labels]))), labels
