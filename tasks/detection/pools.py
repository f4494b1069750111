"""Choose the clips of a data set that a detector is trained and scored on.

Rows of the data set become *items*, windows that a sampler can draw. A clip is a negative only if no table says
otherwise: neither the target nor a related label, under which the target may be audible, is in its weak labels, its
strong events or its annotator-checked frames, nor in those of another row with the same id.

A clip with known events gives one strong negative per event and also a weak negative from anywhere in it, because
the audio between its events is an equally good negative. A clip without weak labels gets the labels of its events,
so that a small data set with strong labels alone has both pools.
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

# R rows of the data set, M clips of a split, E events


# Added to validation_seed, so that the two choices of clips use independent random numbers.
VALIDATION_SEED_OFFSET, EVAL_LIMIT_SEED_OFFSET = 2**32, 2**33
NAMED = 5  # ids named in an error message


@dataclass(frozen=True)
class EvalClips:
    """The scored clips of a split: those with the target and clear negatives, not those with only a related label."""

    rows: np.ndarray  # (M,) int32, rows of the data set
    targets: np.ndarray  # (M,) bool
    strong: np.ndarray  # (M,) bool, all events of the target are known
    edges: np.ndarray  # (M + 1,) int64, start of each clip's events in `events`
    events: np.ndarray  # (E, 2) float32, start and end of the target's events, s in the file
    ambiguous: int = 0  # excluded clips, with a related label but not the target

    def __len__(self) -> int:
        return len(self.rows)

    def events_of(self, clip: int) -> np.ndarray:
        """Return the target's events in a clip of this split (events, 2), s in the file."""
        return self.events[self.edges[clip] : self.edges[clip + 1]]


@dataclass(frozen=True)
class RuleCount:
    """Number of clips that a rule excludes."""

    rule: str
    clips: int


@dataclass(frozen=True)
class LabelCount:
    """Number of weak negatives of a label before and after thinning the most frequent labels."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class ClipCounts:
    """Number of clips, and of items of each kind."""

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
    """Items to draw in training, clips to score, and the counts behind both."""

    items: Items
    positives: np.ndarray  # (positives,) int32, item numbers
    strong: LabelledPool
    weak: LabelledPool
    explicit: np.ndarray  # (explicit,) int32, item numbers
    sides: dict[str, EvalClips]  # "validation" and "test"
    targets: list[int]  # codes of the target's labels
    rules: list[RuleCount]  # in the order of application
    trim: list[LabelCount]  # most frequent label first
    counts: ClipCounts
    ids: str = ""  # digest of the ids of all rows, in order
    target_groups: tuple[int, int] = (0, 0)  # groups with a usable clip of the target: training, validation

    @functools.cached_property
    def digest(self) -> str:
        """Digest of all items; item numbers are only meaningful for pools with the same digest."""
        digest = hashlib.sha256(self.ids.encode())
        # A fixed byte order keeps the digest the same on every machine.
        for column, dtype in zip(self.items.columns(), ("<i4", "<f4", "<f4", "i1", "<i2"), strict=True):
            digest.update(f"{len(column)}:".encode() + np.ascontiguousarray(column, dtype).data)
        return digest.hexdigest()[:16]

    def advice_for_positives(self) -> str:
        """Say how to get positives for training if there are none."""
        in_training, in_validation = self.target_groups
        if in_training or not in_validation:
            return "Choose another target, or another value of `positives`"
        if in_validation == 1:
            return "The only group with the target is in validation. Prepare clips with the target from more groups"
        return (
            f"All {in_validation} groups with the target are in validation. Lower validation_fraction, or change "
            "validation_seed"
        )

    def check_not_empty(self, shares: tuple[float, float, float]) -> None:
        """Raise ValueError if a positive share of positives, strong or weak negatives has an empty pool."""
        pools = {
            "positive_share": (self.positives, self.advice_for_positives()),
            "strong_share": (self.strong.items, "Prepare the data with strong tables, or set strong_share=0"),
            "weak_share": (self.weak.items, "Prepare clips without the target, or set weak_share=0"),
        }
        for share, (name, (pool, advice)) in zip(shares, pools.items(), strict=True):
            if share > 0 and not len(pool):
                excluded = "; ".join(f"{rule.rule}: {rule.clips}" for rule in self.rules)
                kind = {"positive_share": "positives", "strong_share": "strong negatives"}.get(name, "weak negatives")
                raise ValueError(
                    f"{name}={share:g}: there are no {kind}. Of {plural(self.counts.clips, 'clip')}, excluded by each "
                    f"rule in turn: {excluded}. {advice}."
                )


def build_pools(
    table: pa.Table, labels: Labels, ontology: Ontology, settings: PoolSettings, clip_seconds: float
) -> ClipPools:
    """Divide clips into splits, and the training clips into pools.

    Args:
        table: all rows of the data set, with the columns of hf_datasets/audioset except the audio bytes.
        labels, ontology: from its `labels.json`.
        clip_seconds: window length; explicit negatives are at least this long.
    """
    clips = ClipColumns.of(table)
    roles = ClipRoles.of(clips, *find_codes(labels, ontology, settings), settings)
    clean, events = roles.train & ~roles.target & ~roles.near, clips.drawable_events()
    with_labels = clips.labelled_by_events()
    labelled = clean & (np.diff(with_labels.edges) > 0)
    is_kept, trim = thin_head_labels(
        clips, labelled & clips.in_subset("unbalanced_train") & ~clips.strong, labels, settings
    )

    positives = _positives(clips, roles, events, settings)
    strong = event_items(clips, events & (clean & clips.strong)[clips.event_rows], Kind.STRONG)
    first = len(positives) + len(strong)
    weak, *members = weak_clips(with_labels, labelled & is_kept, first)
    checked = checked_runs(clips, roles.train, roles.targets, clip_seconds)
    parts = {Kind.POSITIVE: positives, Kind.STRONG: strong, Kind.WEAK: weak, Kind.EXPLICIT: checked}
    edges = np.cumsum([0, *map(len, parts.values())])
    numbers = {kind: np.arange(edges[kind], edges[kind + 1], dtype=np.int32) for kind in parts}

    rules = roles.rules(clips) | {
        "no label: not a weak negative": _count(clean & ~labelled),
        f"head_trim={settings.head_trim}: most frequent labels thinned": _count(labelled & ~is_kept),
        "event beyond file: event ignored": _count(
            roles.train & clips.with_events(clips.event_start >= clips.seconds[clips.event_rows])
        ),
    }
    return ClipPools(
        items=Items.concatenate(list(parts.values())),
        positives=numbers[Kind.POSITIVE],
        strong=LabelledPool(numbers[Kind.STRONG], strong.label),
        weak=LabelledPool(*members),
        explicit=numbers[Kind.EXPLICIT],
        sides={
            "validation": _eval_clips(clips, clips.usable & roles.validation, roles, events, settings),
            "test": _eval_clips(clips, clips.usable & clips.test, roles, events, settings),
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
    """Return the codes of the target's labels and of the related labels, under which it may be audible."""
    targets = list(dict.fromkeys(labels.find(wanted) for wanted in settings.target))
    if settings.related is None:
        related = set().union(*(ontology.related(mid) for mid in targets))
    else:
        related = {labels.find(wanted) for wanted in settings.related}
    code_of = {mid: code for code, mid in enumerate(labels.mids)}
    return [code_of[mid] for mid in targets], sorted(code_of[m] for m in related - set(targets) if m in code_of)


@dataclass(frozen=True)
class ClipRoles:
    """Roles of all clips, (R,) bool each: contains the target, is related to it, and which split it is in."""

    targets: list[int]
    by_labels: np.ndarray  # the target is in its weak labels
    by_events: np.ndarray  # the target is in its events or checked frames
    target: np.ndarray  # one of these two, in this row or another one with its id
    near: np.ndarray  # no target, but a related label, under which it may be audible
    validation: np.ndarray
    train: np.ndarray  # usable, in neither other split
    ids: str  # digest of all ids
    by_group: np.ndarray  # (R,) float64, a random number per group

    @classmethod
    def of(cls, clips: ClipColumns, targets: list[int], related: list[int], settings: PoolSettings) -> "ClipRoles":
        """Assign the roles; raises ValueError if an id or a group would be both trained and tested on."""
        draws = id_uniforms(clips.ids, settings.validation_seed + VALIDATION_SEED_OFFSET)
        twins = clips.twins(draws)
        _check_eval_apart(clips, *twins)
        by_group = draws
        if clips.groups is not None:
            by_group = id_uniforms(clips.groups, settings.validation_seed + VALIDATION_SEED_OFFSET)
            _check_groups_apart(clips, clips.groups, by_group)
        by_labels = clips.with_labels(targets)
        by_events = clips.with_events(clips.present & is_one_of(clips.event_codes, targets))
        near = clips.with_labels(related) | clips.with_events(clips.present & is_one_of(clips.event_codes, related))
        target = _with_twins(by_labels | by_events, *twins)
        near = _with_twins(near, *twins) & ~target
        validation = ~clips.test & (by_group < settings.validation_fraction)
        if settings.validation_fraction:
            # A threshold needs clips with and without the target. In a small data set chance may leave validation
            # without one of them, so the group with the lowest number is added.
            for members in (target, ~target & ~near):
                validation |= ~clips.test & _first_group(by_group, clips.usable & ~clips.test & members, validation)
        train = clips.usable & ~clips.test & ~validation
        ids = hashlib.sha256(draws.astype("<f8", copy=False).data).hexdigest()
        return cls(targets, by_labels, by_events, target, near, validation, train, ids, by_group)

    def target_groups(self, clips: ClipColumns) -> tuple[int, int]:
        """Count the groups with a usable clip of the target in training and in validation."""
        sides = (self.train, clips.usable & self.validation)
        in_training, in_validation = (len(np.unique(self.by_group[self.target & side])) for side in sides)
        return in_training, in_validation

    def rules(self, clips: ClipColumns) -> dict[str, int]:
        """Count the clips that each rule excludes; a clip counts for the first rule that excludes it."""
        return {
            "no usable audio": _count(~clips.usable),
            "eval: only tested on": _count(clips.usable & clips.test),
            "validation, by group: only validated on": _count(clips.usable & self.validation),
            "weak target label: not a negative": _count(self.train & self.by_labels),
            "target event only: not a negative": _count(self.train & self.by_events & ~self.by_labels),
            "target in duplicate: not a negative": _count(
                self.train & self.target & ~self.by_labels & ~self.by_events
            ),
            "related label: neither positive nor negative": _count(self.train & self.near),
        }


def _count(rows: np.ndarray) -> int:
    return int(np.count_nonzero(rows))


def _check_eval_apart(clips: ClipColumns, twins: np.ndarray, ids: np.ndarray) -> None:
    """Raise ValueError if an id is both in eval and in a training list."""
    tested = np.bincount(ids, weights=clips.test[twins])
    both = np.flatnonzero((tested > 0) & (tested < np.bincount(ids)))
    if len(both):
        named = clips.ids.take(pa.array(twins[np.isin(ids, both)])).unique().to_pylist()
        raise ValueError(
            f"clip_id={', '.join(named[:NAMED])}{', ...' if len(named) > NAMED else ''}: "
            f"{plural(len(named), 'clip')} in eval and in a training list. Remove each clip from one of the two."
        )


def _check_groups_apart(clips: ClipColumns, groups: pa.ChunkedArray, draws: np.ndarray) -> None:
    """Raise ValueError if a group is in eval and in training; `draws` (R,) are equal for equal groups."""
    both = np.intersect1d(draws[clips.test & clips.usable], draws[~clips.test & clips.usable])
    if len(both):
        rows = [int(np.flatnonzero(draws == draw)[0]) for draw in both[:NAMED]]
        named = ", ".join(repr(group) for group in groups.take(pa.array(rows)).to_pylist())
        raise ValueError(
            f"group={named}{', ...' if len(both) > NAMED else ''}: clips of {plural(len(both), 'group')} are "
            "in eval and in training. Put all clips of a group in one split."
        )


def _first_group(draws: np.ndarray, rows: np.ndarray, validation: np.ndarray) -> np.ndarray:
    """Return the group (R,) bool with the lowest draw among rows (R,) bool, if none of several is in validation."""
    if (rows & validation).any() or len(np.unique(draws[rows])) < 2:
        return np.zeros(len(draws), bool)
    return draws == draws[rows].min()


def _with_twins(rows: np.ndarray, twins: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Extend rows (R,) bool to all rows with the same ids; changes its argument."""
    rows[twins] = np.bincount(ids, weights=rows[twins])[ids] > 0
    return rows


def thin_head_labels(
    clips: ClipColumns, eligible: np.ndarray, labels: Labels, settings: PoolSettings
) -> tuple[np.ndarray, list[LabelCount]]:
    """Thin the eligible rows (R,) bool with head labels; returns the rows kept (R,) bool and counts per label."""
    kept = np.ones(len(clips), bool)
    if settings.head_trim == "none":
        return kept, []
    heads = [labels.mids.index(labels.find(wanted)) for wanted in settings.head_labels]
    share, mode, count = settings.head_keep_fraction, settings.head_trim, len(labels.mids)
    options = (heads, share, mode, settings.head_seed, count, settings.head_floor)
    lists = pa.ListArray.from_arrays(pa.array(clips.edges), pa.array(clips.codes))
    table = pa.table({"ytid": clips.ids, "labels": lists})
    # The floor counts all eligible clips of a label; the other modes look at one clip at a time.
    if mode == "floor":
        kept[eligible] = trim_heads(table.filter(pa.array(eligible)), *options)
    counts = np.zeros((3, count), np.int64)  # rows: not eligible, dropped, kept
    for rows, pairs in clips.blocks():
        if mode != "floor":
            kept[rows] = trim_heads(table[rows], *options) | ~eligible[rows]
        offset = eligible[rows] * (1 + kept[rows].astype(np.int32)) * count
        offset = np.repeat(offset, np.diff(clips.edges[rows.start : rows.stop + 1]))
        counts += np.bincount(offset + clips.codes[pairs], minlength=counts.size).reshape(counts.shape)
    before, after = counts[1] + counts[2], counts[2]
    most_first = [code for code in np.argsort(-before, kind="stable") if before[code]]
    return kept, [LabelCount(labels.names[code], int(before[code]), int(after[code])) for code in most_first]


def _positives(clips: ClipColumns, roles: ClipRoles, events: np.ndarray, settings: PoolSettings) -> Items:
    """Make positives as `settings.positives` asks: from target events, from clips with the target as weak label."""
    events = events & is_one_of(clips.event_codes, roles.targets) & roles.train[clips.event_rows]
    wanted = settings.positives
    if wanted == "auto":
        wanted = "strong" if events.any() else "weak"
    parts = []
    if wanted in ("strong", "both"):
        parts.append(event_items(clips, events, Kind.POSITIVE))
    if wanted in ("weak", "both"):
        # With `both`, a clip whose target events are known is used through its events only.
        without_events = ~clips.strong & ~clips.with_events(events)
        parts.append(target_clips(clips, roles.train & (without_events | (wanted == "weak")), roles.targets))
    return Items.concatenate(parts)


def _eval_clips(
    clips: ClipColumns, rows: np.ndarray, roles: ClipRoles, events: np.ndarray, settings: PoolSettings
) -> EvalClips:
    """Choose the scored clips of a split (R,) bool: all with the target, and negatives up to max_eval_clips.

    `events` (E,) bool are those that can be drawn.
    """
    ambiguous = int((rows & roles.near).sum())
    positives, negatives = np.flatnonzero(rows & roles.target), np.flatnonzero(rows & ~roles.target & ~roles.near)
    if settings.max_eval_clips:
        draws = id_uniforms(clips.ids.take(pa.array(negatives)), settings.validation_seed + EVAL_LIMIT_SEED_OFFSET)
        negatives = negatives[np.argsort(draws, kind="stable")[: max(settings.max_eval_clips - len(positives), 0)]]
    chosen = np.sort(np.concatenate([positives, negatives]))
    edges, times = _target_events(clips, chosen, events & is_one_of(clips.event_codes, roles.targets))
    targets = roles.target[chosen]
    # A clip with the target but without a drawable event has it somewhere unknown.
    events_known = clips.strong[chosen] & ~(targets & (np.diff(edges) == 0))
    return EvalClips(chosen.astype(np.int32), targets, events_known, edges, times, ambiguous)


def _target_events(clips: ClipColumns, rows: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge overlapping events (E,) bool of strongly labelled rows; returns `edges` and `events` of EvalClips."""
    listed = np.zeros(len(clips), bool)
    listed[rows] = clips.strong[rows]
    events = np.flatnonzero(events)
    items = event_items(clips, events[listed[clips.event_rows[events]]], Kind.POSITIVE)
    items = items.take(np.lexsort((items.start, items.clip)))
    merged: list[tuple[int, float, float]] = []
    for row, start, end in zip(items.clip.tolist(), items.start.tolist(), items.end.tolist(), strict=True):
        if merged and merged[-1][0] == row and start < merged[-1][2] - TOLERANCE:
            merged[-1] = (row, merged[-1][1], max(end, merged[-1][2]))
        else:
            merged.append((row, start, end))
    edges = np.searchsorted(np.array([row for row, _, _ in merged]), np.append(rows, len(clips)))
    return edges, np.array([times for _, *times in merged], np.float32).reshape(-1, 2)
