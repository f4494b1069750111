"""Items: windows of clips that a sampler can draw, built from clips and their events."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np

from tasks.detection.columns import ClipColumns

# R rows of the data set, N items, E events


TOLERANCE = 1e-3  # s; frames closer than this touch, and events that overlap by less do not
# Longer than any file, in s. Adding row * LONGEST to the times of all rows lets one sort keep the rows apart.
LONGEST = 1e5


class Kind(IntEnum):
    """Whether an item holds the target, and how that is known."""

    POSITIVE = 0
    STRONG = 1  # the event of another sound
    WEAK = 2  # a clip without the target, anywhere in it
    EXPLICIT = 3  # an annotator confirmed that the target is absent


KIND_NAMES = ("positive", "strong negative", "weak negative", "explicit negative")


@dataclass(frozen=True)
class Items:
    """Windows that can be drawn; one item per entry of each column (N,)."""

    clip: np.ndarray  # int32, row of the data set
    start: np.ndarray  # float32, s in the file; NaN: anywhere in the file (weak labels)
    end: np.ndarray  # float32, s in the file; NaN as for `start`
    kind: np.ndarray  # int8
    label: np.ndarray  # int16, code of the event's label; for weak negatives the clip's rarest label

    def __len__(self) -> int:
        return len(self.clip)

    @classmethod
    def of(cls, clip: np.ndarray, start: np.ndarray, end: np.ndarray, kind: Kind, label: np.ndarray) -> "Items":
        return cls(
            clip=clip.astype(np.int32, copy=False),
            start=start.astype(np.float32, copy=False),
            end=end.astype(np.float32, copy=False),
            kind=np.full(len(clip), kind, np.int8),
            label=label.astype(np.int16),
        )

    @classmethod
    def anywhere(cls, clip: np.ndarray, kind: Kind, label: np.ndarray) -> "Items":
        """Make items of one kind without a fixed place in their clips."""
        unknown = np.full(len(clip), np.nan, np.float32)
        return cls.of(clip, unknown, unknown, kind, label)

    @classmethod
    def concatenate(cls, parts: "Sequence[Items]") -> "Items":
        return cls(*(np.concatenate(columns) for columns in zip(*(part.columns() for part in parts), strict=True)))

    def columns(self) -> tuple[np.ndarray, ...]:
        """Return clip, start, end, kind and label."""
        return tuple(getattr(self, column.name) for column in fields(self))

    def targets(self) -> np.ndarray:
        """Return 1 for items with the target, else 0: (N,) float32."""
        return (self.kind == Kind.POSITIVE).astype(np.float32)

    def take(self, which: np.ndarray) -> "Items":
        """Select items by number or mask."""
        return Items(*(column[which] for column in self.columns()))


def event_items(clips: ClipColumns, which: np.ndarray, kind: Kind) -> Items:
    """Make items from the selected events (E,) bool."""
    return Items.of(
        clips.event_rows[which], clips.event_start[which], clips.event_end[which], kind, clips.event_codes[which]
    )


def target_clips(clips: ClipColumns, which: np.ndarray, targets: Sequence[int]) -> Items:
    """Make positives without a fixed place from the selected rows (R,) bool with a weak label of the target."""
    label = np.full(len(clips), -1, np.int16)
    # In reverse, so that the first of a clip's target labels is the one that stays.
    for code in reversed(targets):
        label[clips.with_labels([code])] = code
    rows = np.flatnonzero(which & (label >= 0))
    return Items.anywhere(rows, Kind.POSITIVE, label[rows])


def weak_clips(clips: ClipColumns, which: np.ndarray, first: int) -> tuple[Items, np.ndarray, np.ndarray]:
    """Make weak negatives from the selected rows (R,) bool, each under its rarest weak label.

    Returns:
        the items, and for each pair of an item and one of its labels the item's number (counted from `first`) and the
        label.
    """
    by_rarity = np.argsort(clips.label_counts, kind="stable").astype(np.int16)
    rarity = np.argsort(by_rarity, kind="stable").astype(np.int16)
    columns: list[tuple[np.ndarray, ...]] = [
        (np.zeros(0, np.int64), *[np.zeros(0, np.int16)] * 2, np.zeros(0, np.int32))
    ]
    for rows, pairs in clips.blocks():
        chosen, lengths = which[rows], np.diff(clips.edges[rows.start : rows.stop + 1])
        labels, lengths = clips.codes[pairs][np.repeat(chosen, lengths)], lengths[chosen]
        if len(lengths):
            rarest = np.minimum.reduceat(rarity[labels], np.cumsum(lengths) - lengths)
            columns.append((rows.start + np.flatnonzero(chosen), by_rarity[rarest], labels, lengths))
    rows, rarest, labels, lengths = (np.concatenate(column) for column in zip(*columns, strict=True))
    numbers = np.repeat(np.arange(first, first + len(rows), dtype=np.int32), lengths)
    return Items.anywhere(rows, Kind.WEAK, rarest), numbers, labels


def checked_runs(clips: ClipColumns, train: np.ndarray, targets: Sequence[int], clip_seconds: float) -> Items:
    """Make items from stretches of at least `clip_seconds` whose frames an annotator checked and found without the
    target.

    Consecutive frames form a stretch; frames that touch a target event are left out. If the target has several
    labels, a clip with a weak label for another one is left out too.
    """
    is_target = np.isin(clips.event_codes, targets)
    checked = is_target & ~clips.present & train[clips.event_rows]
    checked &= ~_overlap(clips, checked, is_target & clips.present)
    for code in targets if len(targets) > 1 and checked.any() else ():
        has_other_target = clips.with_labels([other for other in targets if other != code])
        checked &= ~((clips.event_codes == code) & has_other_target[clips.event_rows])
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


def _overlap(clips: ClipColumns, which: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which of the selected events (E,) bool overlap one of the other events (E,) bool in their row."""
    begins, ends = (
        [clips.event_rows[selected] * LONGEST + times[selected].astype(np.float64) for selected in (which, other)]
        for times in (clips.event_start, clips.event_end)
    )
    started = np.searchsorted(np.sort(begins[1]), ends[0] - TOLERANCE)
    ended = np.searchsorted(np.sort(ends[1]), begins[0] + TOLERANCE, side="right")
    overlaps = np.zeros(len(which), bool)
    # An event overlaps another one if more events start before its end than end before its start.
    overlaps[which] = started > ended
    return overlaps


@dataclass(frozen=True)
class LabelledPool:
    """Negatives drawn by label: member m is item `items[m]` of the data set under label `labels[m]`.

    An item with several labels is a member once per label.
    """

    items: np.ndarray  # (P,) int
    labels: np.ndarray  # (P,) int

    @functools.cached_property
    def by_label(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items grouped by label (P,), where each label's items start (L + 1,), and the labels with items (L,)."""
        order = np.argsort(self.labels, kind="stable")
        counts = np.bincount(self.labels)
        labels = np.flatnonzero(counts)
        return self.items[order], np.concatenate(([0], np.cumsum(counts[labels]))), labels
