"""Which windows of AudioSet a detector is trained and tested on: positives, negatives that are negatives, and sides.

Rows of the data set become *items*, windows that a sampler can draw. A clip is a negative only where no table says
otherwise: neither the target nor a label under which it may be heard stands in its weak labels, its strong events or
the frames that people checked, and neither of these for another row with its id.

A clip whose events are known serves as strong negatives, event by event, and as a weak negative too, from anywhere in
it: what lies between its events is no worse a negative. One without weak labels has those of its events, so that a
small data set of strong labels alone has both pools.
"""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from media.audioset import Labels, Ontology, id_uniforms, trim_heads
from system.text import plural
from tasks.detection.columns import ClipColumns, is_one_of, reasons_without_audio
from tasks.detection.items import (
    TOLERANCE,
    Items,
    Kind,
    LabelledPool,
    checked_runs,
    event_items,
    target_clips,
    weak_clips,
)
from tasks.detection.settings import PoolSettings

# R rows of the data set, M clips of a side, E events


VALIDATION, MOST = 2**32, 2**33  # what a seed is raised by, so that each choice of clips has draws of its own
NAMED = 5  # ids that an error names


@dataclass(frozen=True)
class EvalClips:
    """The clips of a side that are scored; those with a related label only are not among them."""

    rows: np.ndarray  # (M,) int32, rows of the data set
    targets: np.ndarray  # (M,) bool
    strong: np.ndarray  # (M,) bool, whether all events of the target are known
    edges: np.ndarray  # (M + 1,) int64, where each clip's begin in `events`
    events: np.ndarray  # (E, 2) float32, start and end of the target's events, s in the file
    ambiguous: int = 0  # clips left out, with a related label but not the target

    def __len__(self) -> int:
        return len(self.rows)

    def events_of(self, clip: int) -> np.ndarray:
        """The target's events in a clip of this side (events, 2), s in the file."""
        return self.events[self.edges[clip] : self.edges[clip + 1]]


@dataclass(frozen=True)
class RuleCount:
    """How many clips a rule left out."""

    rule: str
    clips: int


@dataclass(frozen=True)
class LabelCount:
    """How many weak negatives a label had before and after the most frequent sounds were thinned."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class ClipCounts:
    """How many clips there are, and how many items of each kind they give."""

    clips: int
    with_audio: int
    unusable: dict[str, int]  # reason -> clips
    subsets: dict[str, int]
    positive_clips: int
    positives: int
    strong_negatives: int
    weak_negatives: int
    explicit_negatives: int


@dataclass(frozen=True)
class ClipPools:
    """What can be drawn in training, what is scored, and how it came to that."""

    items: Items
    positives: np.ndarray  # (positives,) int32, numbers of items
    strong: LabelledPool
    weak: LabelledPool
    explicit: np.ndarray  # (explicit,) int32, numbers of items
    sides: dict[str, EvalClips]  # "validation" and "test"
    targets: list[int]  # codes of the target's labels
    rules: list[RuleCount]  # in the order in which they were applied
    trim: list[LabelCount]  # most clips first
    counts: ClipCounts
    ids: str = ""  # a digest of all rows' ids, in their order
    target_groups: tuple[int, int] = (0, 0)  # with a usable clip that has the target: in training, in validation

    @functools.cached_property
    def digest(self) -> str:
        """Of all items: with other data, their numbers mean other sounds."""
        digest = hashlib.sha256(self.ids.encode())
        for column, kind in zip(self.items.columns(), ("<i4", "<f4", "<f4", "i1", "<i2"), strict=True):
            digest.update(f"{len(column)}:".encode() + np.ascontiguousarray(column, kind).data)
        return digest.hexdigest()[:16]

    def advice_for_positives(self) -> str:
        """How a data set without positives for training gets some."""
        in_training, in_validation = self.target_groups
        if in_training or not in_validation:
            return "take another target, or other `positives`"
        if in_validation == 1:
            return "the target is in one group only, which is in validation. Prepare clips of more groups with it"
        return (
            f"all {in_validation} groups with the target are in validation. Lower validation_fraction, or change "
            "validation_seed"
        )

    def check_not_empty(self, shares: tuple[float, float, float]) -> None:
        """Refuse shares of positives, strong and weak negatives of which there are none; says how it came to that."""
        pools = {
            "positive_share": (self.positives, self.advice_for_positives()),
            "strong_share": (self.strong.items, "prepare the data with strong tables, or set strong_share 0"),
            "weak_share": (self.weak.items, "prepare clips without the target, or set weak_share 0"),
        }
        for share, (name, (pool, advice)) in zip(shares, pools.items(), strict=True):
            if share > 0 and not len(pool):
                went = "; ".join(f"{rule.rule}: {rule.clips}" for rule in self.rules)
                kind = {"positive_share": "positives", "strong_share": "strong negatives"}.get(name, "weak negatives")
                raise ValueError(
                    f"there are no {kind}, but {name} is {share:g}. Of {plural(self.counts.clips, 'clip')}, left out "
                    f"by each rule in turn: {went}. {advice[0].upper()}{advice[1:]}"
                )


def build_pools(
    table: pa.Table, labels: Labels, ontology: Ontology, settings: PoolSettings, clip_seconds: float
) -> ClipPools:
    """Divide clips into sides and the training clips into pools.

    Args:
        table: all rows of the data set, with the columns of hf_datasets/audioset except the sounds' bytes.
        labels, ontology: of its `labels.json`.
        clip_seconds: length of a window; explicit negatives are at least so long.
    """
    clips = ClipColumns.of(table)
    roles = ClipRoles.of(clips, *find_codes(labels, ontology, settings), settings)
    clean, events = roles.train & ~roles.target & ~roles.near, clips.drawable_events()
    sounds = clips.labelled_by_events()
    labelled = clean & (np.diff(sounds.edges) > 0)
    kept, trim = thin(clips, labelled & clips.in_subset("unbalanced_train") & ~clips.strong, labels, settings)

    positives = _positives(clips, roles, events, settings)
    strong = event_items(clips, events & (clean & clips.strong)[clips.event_rows], Kind.STRONG)
    first = len(positives) + len(strong)
    weak, *members = weak_clips(sounds, labelled & kept, first)
    checked = checked_runs(clips, roles.train, roles.targets, clip_seconds)
    parts = {Kind.POSITIVE: positives, Kind.STRONG: strong, Kind.WEAK: weak, Kind.EXPLICIT: checked}
    edges = np.cumsum([0, *map(len, parts.values())])
    numbers = {kind: np.arange(edges[kind], edges[kind + 1], dtype=np.int32) for kind in parts}

    rules = roles.rules(clips) | {
        "no label: no weak negative": _count(clean & ~labelled),
        f"the commonest sounds, thinned ({settings.head_trim})": _count(labelled & ~kept),
        "events after the end of their file: not these events": _count(
            roles.train & clips.with_events(clips.event_start >= clips.seconds[clips.event_rows])
        ),
    }
    return ClipPools(
        items=Items.joined(list(parts.values())),
        positives=numbers[Kind.POSITIVE],
        strong=LabelledPool(numbers[Kind.STRONG], strong.label),
        weak=LabelledPool(*members),
        explicit=numbers[Kind.EXPLICIT],
        sides={
            "validation": _side(clips, clips.usable & roles.validation, roles, events, settings),
            "test": _side(clips, clips.usable & clips.test, roles, events, settings),
        },
        targets=roles.targets,
        rules=[RuleCount(rule, count) for rule, count in rules.items()],
        trim=trim,
        counts=ClipCounts(
            clips=len(clips),
            with_audio=int(clips.usable.sum()),
            unusable=reasons_without_audio(table, clips.usable),
            subsets=dict(zip(clips.subsets, np.bincount(clips.subset).tolist(), strict=True)),
            positive_clips=len(np.unique(positives.clip)),
            positives=len(positives),
            strong_negatives=len(strong),
            weak_negatives=len(weak),
            explicit_negatives=len(checked),
        ),
        ids=roles.ids,
        target_groups=roles.target_groups(clips),
    )


def find_codes(labels: Labels, ontology: Ontology, settings: PoolSettings) -> tuple[list[int], list[int]]:
    """Codes of the target's labels, and of those under which it may be heard."""
    targets = list(dict.fromkeys(labels.find(wanted) for wanted in settings.target))
    if settings.related is None:
        related = set().union(*(ontology.related(mid) for mid in targets))
    else:
        related = {labels.find(wanted) for wanted in settings.related}
    code_of = {mid: code for code, mid in enumerate(labels.mids)}
    return [code_of[mid] for mid in targets], sorted(code_of[m] for m in related - set(targets) if m in code_of)


@dataclass(frozen=True)
class ClipRoles:
    """Per clip (R,) bool: whether any table says that it has the target, and its side."""

    targets: list[int]
    by_labels: np.ndarray  # the target is one of its weak labels
    by_events: np.ndarray  # the target is one of its events or checked frames
    target: np.ndarray  # either, or either of another row with its id
    near: np.ndarray  # not the target, but a label under which it may be heard
    validation: np.ndarray
    train: np.ndarray  # usable, on neither other side
    ids: str  # a digest of all ids
    by_group: np.ndarray  # (R,) float64, equal where groups are

    @classmethod
    def of(cls, clips: ClipColumns, targets: list[int], related: list[int], settings: PoolSettings) -> "ClipRoles":
        """From the tables' columns; ValueError where a clip would be trained on and tested on."""
        draws = id_uniforms(clips.ids, settings.validation_seed + VALIDATION)
        twins = clips.twins(draws)
        _check_eval_apart(clips, *twins)
        by_group = draws
        if clips.groups is not None:
            by_group = id_uniforms(clips.groups, settings.validation_seed + VALIDATION)
            _check_groups_apart(clips, clips.groups, by_group)
        by_labels = clips.with_labels(targets)
        by_events = clips.with_events(clips.present & is_one_of(clips.event_codes, targets))
        near = clips.with_labels(related) | clips.with_events(clips.present & is_one_of(clips.event_codes, related))
        target = _with_twins(by_labels | by_events, *twins)
        near = _with_twins(near, *twins) & ~target
        validation = ~clips.test & (by_group < settings.validation_fraction)
        if settings.validation_fraction:
            for kind in (target, ~target & ~near):
                validation |= ~clips.test & _first_group(by_group, clips.usable & ~clips.test & kind, validation)
        train = clips.usable & ~clips.test & ~validation
        ids = hashlib.sha256(draws.astype("<f8", copy=False).data).hexdigest()
        return cls(targets, by_labels, by_events, target, near, validation, train, ids, by_group)

    def target_groups(self, clips: ClipColumns) -> tuple[int, int]:
        """How many groups with a usable clip that has the target are in training, and in validation."""
        sides = (self.train, clips.usable & self.validation)
        in_training, in_validation = (len(np.unique(self.by_group[self.target & side])) for side in sides)
        return in_training, in_validation

    def rules(self, clips: ClipColumns) -> dict[str, int]:
        """How many clips each rule leaves out, those of earlier rules not again."""
        return {
            "no usable audio": _count(~clips.usable),
            "eval: tested on, never trained on": _count(clips.usable & clips.test),
            "validation, by group: never trained on": _count(clips.usable & self.validation),
            "the target is a weak label: no negative": _count(self.train & self.by_labels),
            "the target is no weak label, but an event: no negative": _count(
                self.train & self.by_events & ~self.by_labels
            ),
            "another row of the id has the target: no negative": _count(
                self.train & self.target & ~self.by_labels & ~self.by_events
            ),
            "a label under which the target may be heard: neither positive nor negative": _count(
                self.train & self.near
            ),
        }


def _count(rows: np.ndarray) -> int:
    return int(np.count_nonzero(rows))


def _check_eval_apart(clips: ClipColumns, twins: np.ndarray, ids: np.ndarray) -> None:
    """Refuse a clip that would be tested on and trained on."""
    tested = np.bincount(ids, weights=clips.test[twins])
    both = np.flatnonzero((tested > 0) & (tested < np.bincount(ids)))
    if len(both):
        named = clips.ids.take(pa.array(twins[np.isin(ids, both)])).unique().to_pylist()
        raise ValueError(
            f"in eval and in a list for training: {plural(len(named), 'clip')} ({', '.join(named[:NAMED])}"
            f"{', ...' if len(named) > NAMED else ''}): what is tested on is never trained on; take them out of one"
        )


def _check_groups_apart(clips: ClipColumns, groups: pa.ChunkedArray, draws: np.ndarray) -> None:
    """Refuse a group that would be tested on and trained on; `draws` (R,) are equal where groups are."""
    both = np.intersect1d(draws[clips.test & clips.usable], draws[~clips.test & clips.usable])
    if len(both):
        rows = [int(np.flatnonzero(draws == draw)[0]) for draw in both[:NAMED]]
        named = ", ".join(repr(group) for group in groups.take(pa.array(rows)).to_pylist())
        raise ValueError(
            f"group={named}{', ...' if len(both) > NAMED else ''}: clips of {plural(len(both), 'group')} are "
            "in eval and in training. Put all clips of a group in one split."
        )


def _first_group(draws: np.ndarray, rows: np.ndarray, validation: np.ndarray) -> np.ndarray:
    """The group (R,) bool of rows (R,) bool with the lowest draw, where chance put none of several in validation."""
    if (rows & validation).any() or len(np.unique(draws[rows])) < 2:
        return np.zeros(len(draws), bool)
    return draws == draws[rows].min()


def _with_twins(rows: np.ndarray, twins: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Rows (R,) bool, and all others with their ids; changes its argument."""
    rows[twins] = np.bincount(ids, weights=rows[twins])[ids] > 0
    return rows


def thin(
    clips: ClipColumns, eligible: np.ndarray, labels: Labels, settings: PoolSettings
) -> tuple[np.ndarray, list[LabelCount]]:
    """Which rows (R,) bool stay when some of the eligible ones are left out, and each label's before and after."""
    kept = np.ones(len(clips), bool)
    if settings.head_trim == "none":
        return kept, []
    heads = [labels.mids.index(labels.find(wanted)) for wanted in settings.head_labels]
    share, mode, count = settings.head_keep_fraction, settings.head_trim, len(labels.mids)
    options = (heads, share, mode, settings.head_seed, count, settings.head_floor)
    lists = pa.ListArray.from_arrays(pa.array(clips.edges), pa.array(clips.codes))
    table = pa.table({"ytid": clips.ids, "labels": lists})
    if mode == "floor":  # looks at all that are eligible, the others at one clip alone
        kept[eligible] = trim_heads(table.filter(pa.array(eligible)), *options)
    counts = np.zeros((3, count), np.int64)  # of what is not eligible, goes and stays
    for rows, pairs in clips.blocks():
        if mode != "floor":
            kept[rows] = trim_heads(table[rows], *options) | ~eligible[rows]
        lot = eligible[rows] * (1 + kept[rows].astype(np.int32)) * count
        lot = np.repeat(lot, np.diff(clips.edges[rows.start : rows.stop + 1]))
        counts += np.bincount(lot + clips.codes[pairs], minlength=counts.size).reshape(counts.shape)
    before, after = counts[1] + counts[2], counts[2]
    most_first = [code for code in np.argsort(-before, kind="stable") if before[code]]
    return kept, [LabelCount(labels.names[code], int(before[code]), int(after[code])) for code in most_first]


def _positives(clips: ClipColumns, roles: ClipRoles, events: np.ndarray, settings: PoolSettings) -> Items:
    """The target's events, and clips that have it as a weak label, as far as they are asked for."""
    events = events & is_one_of(clips.event_codes, roles.targets) & roles.train[clips.event_rows]
    wanted = settings.positives
    if wanted == "auto":
        wanted = "strong" if events.any() else "weak"
    found = []
    if wanted in ("strong", "both"):
        found.append(event_items(clips, events, Kind.POSITIVE))
    if wanted in ("weak", "both"):
        without_events = ~clips.strong & ~clips.with_events(events)
        found.append(target_clips(clips, roles.train & (without_events | (wanted == "weak")), roles.targets))
    return Items.joined(found)


def _side(
    clips: ClipColumns, rows: np.ndarray, roles: ClipRoles, events: np.ndarray, settings: PoolSettings
) -> EvalClips:
    """Clips of a side (R,) bool: those with the target, and of those that are negatives as many as asked for.

    `events` (E,) bool are those that can be drawn.
    """
    ambiguous = int((rows & roles.near).sum())
    positives, negatives = np.flatnonzero(rows & roles.target), np.flatnonzero(rows & ~roles.target & ~roles.near)
    if settings.max_eval_clips:
        draws = id_uniforms(clips.ids.take(pa.array(negatives)), settings.validation_seed + MOST)
        negatives = negatives[np.argsort(draws, kind="stable")[: max(settings.max_eval_clips - len(positives), 0)]]
    chosen = np.sort(np.concatenate([positives, negatives]))
    edges, times = _target_events(clips, chosen, events & is_one_of(clips.event_codes, roles.targets))
    targets = roles.target[chosen]
    known = clips.strong[chosen] & ~(targets & (np.diff(edges) == 0))  # else it is in it, but nobody says where
    return EvalClips(chosen.astype(np.int32), targets, known, edges, times, ambiguous)


def _target_events(clips: ClipColumns, rows: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some events (E,) bool in strongly labelled rows, overlapping ones as one: `edges` and `events` of EvalClips."""
    listed = np.zeros(len(clips), bool)
    listed[rows] = clips.strong[rows]
    events = np.flatnonzero(events)
    found = event_items(clips, events[listed[clips.event_rows[events]]], Kind.POSITIVE)
    found = found.take(np.lexsort((found.start, found.clip)))
    merged: list[tuple[int, float, float]] = []
    for row, start, end in zip(found.clip.tolist(), found.start.tolist(), found.end.tolist(), strict=True):
        if merged and merged[-1][0] == row and start < merged[-1][2] - TOLERANCE:
            merged[-1] = (row, merged[-1][1], max(end, merged[-1][2]))
        else:
            merged.append((row, start, end))
    edges = np.searchsorted(np.array([row for row, _, _ in merged]), np.append(rows, len(clips)))
    return edges, np.array([times for _, *times in merged], np.float32).reshape(-1, 2)
