"""One table of all clips: what weak tables, strong tables and people's own lists say of each, joined by its id."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from media.audioset import Labels, id_uniforms
from system.text import plural

from ..defects import make_defect
from .own_lists import GroupTable, OwnList
from .sound_files import SUBSETS
from .table_formats import ROWS_A_PART
from .tables import StrongTable, WeakTable

EVAL, LIST = SUBSETS.index("eval"), SUBSETS.index("list")
SAME_START = 0.5  # s between the starts of an excerpt in two tables that mean the same
NAMED = 5  # ids named in an error
EVENT = pa.struct(
    [("label", pa.int64()), ("start_seconds", pa.float32()), ("end_seconds", pa.float32()), ("present", pa.bool_())]
)


@dataclass
class ClipDefects:
    """Defects of clips by their number, as columns: there may be as many as clips."""

    rows: list[np.ndarray] = field(default_factory=list)
    defects: list[pa.StructArray] = field(default_factory=list)

    def add(
        self, rows: np.ndarray, what: str, how_much: np.ndarray | None = None, detail: pa.Array | None = None
    ) -> None:
        """Say of some clips that this is wrong with them."""
        if len(rows):
            self.rows.append(np.asarray(rows, np.int64))
            self.defects.append(defect_array(len(rows), what, how_much, detail))

    def lists(self, clips: int) -> pa.ListArray:
        """The column `defects` of so many clips."""
        if not self.rows:
            return defect_lists(np.zeros(0, np.int64), defect_array(0, "clip_missing"), clips)
        return defect_lists(np.concatenate(self.rows), pa.concat_arrays(self.defects), clips)


def defect_array(
    count: int, what: str, how_much: np.ndarray | None = None, detail: pa.Array | None = None
) -> pa.StructArray:
    """So many defects of one kind, as rows hold them."""
    columns = {
        "listener": pa.nulls(count, pa.string()),
        "what": pa.repeat(what, count),
        "how_much": pa.nulls(count, pa.float64())
        if how_much is None
        else pa.array(np.round(how_much, 6), pa.float64()),
        "unit": pa.repeat(make_defect(what)["unit"], count),
        "detail": pa.repeat("", count) if detail is None else detail,
    }
    return pa.StructArray.from_arrays(list(columns.values()), list(columns))


def defect_lists(rows: np.ndarray, defects: pa.StructArray, clips: int) -> pa.ListArray:
    """The column `defects` of so many clips, each one's in the order in which they were found."""
    offsets = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=clips)))).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, defects.take(pa.array(np.argsort(rows, kind="stable"))))


@dataclass(frozen=True)
class Clips:
    """All clips: official ones in the order of their tables, then those of lists and of strong tables alone.

    `table` has the columns clip_id, subset, part, start_seconds, end_seconds, labels, events, strongly_labelled and
    group (null: the clip alone).
    """

    table: pa.Table
    in_eval: np.ndarray  # (clips,) bool
    subset: np.ndarray  # (clips,) int8, position in SUBSETS
    part: np.ndarray  # (clips,) int16, -1 for none
    paths: pa.Array | None  # (clips,) where a list names a file in a folder, else null
    disputed: np.ndarray  # (clips,) bool, tables disagree about the excerpt
    defects: ClipDefects
    group_defects: list[dict]  # of lists and tables of groups


@dataclass(frozen=True)
class _Sources:
    """Ids of all clips by their number, and the clip of each row of each file (rows,) by number."""

    ids: pa.Array
    weak: list[tuple[WeakTable, np.ndarray]]
    strong: list[tuple[StrongTable, np.ndarray]]
    own: list[tuple[OwnList, np.ndarray]]

    def sides(self) -> list[tuple[str, bool, np.ndarray]]:
        """Each file, whether it belongs to the eval split, and its clips."""
        weak = [(table.where, table.subset == EVAL, clips) for table, clips in self.weak]
        return weak + [(table.where, table.in_eval, clips) for table, clips in self.strong + self.own]


def join_clips(
    weak: list[WeakTable],
    strong: list[StrongTable],
    own: list[OwnList],
    labels: Labels,
    meant: dict[str, str],
    target: list[str],
    groups: Sequence[GroupTable] = (),
) -> Clips:
    """One row a clip. An id of the eval split in a table or list of the train split is a ValueError.

    Args:
        meant: MID of every label that the lists write.
        target: MIDs that the events of a list of positives have.
    """
    sources = _number_clips(weak, strong, own)
    in_eval = _settle_sides(sources)
    count, defects = len(sources.ids), ClipDefects()
    subset, part = _settle_subsets(sources, in_eval)
    start, end = _settle_excerpts(sources)
    events, disputed = _join_events(sources, start, labels, meant, target, defects)
    _note_late_events(events, end - start, defects)
    whole = np.zeros(count, bool)
    for table, clips in sources.strong:
        whole[clips] |= table.whole
    for one, clips in sources.own:
        whole[clips] |= one.kind != "weak"
    of_clips, group_defects = _join_groups(sources, groups)
    table = pa.table(
        {
            "clip_id": sources.ids,
            "subset": pa.array(SUBSETS).take(pa.array(subset)),
            "part": pa.array(part, mask=part < 0),
            "start_seconds": pa.array(start, mask=np.isnan(start)),
            "end_seconds": pa.array(end, mask=np.isnan(end)),
            "labels": _join_labels(sources, labels, meant),
            "events": events,
            "strongly_labelled": whole & ~disputed,
            "group": of_clips,
        }
    )
    return Clips(table, in_eval, subset, part, _named_paths(sources), disputed, defects, group_defects)


def _number_clips(weak: list[WeakTable], strong: list[StrongTable], own: list[OwnList]) -> _Sources:
    """Number the clips: those of weak tables as they stand there, then those that only others have, as they come."""
    official = pa.concat_arrays([pa.array([], pa.string()), *(t.rows["ytid"].combine_chunks() for t in weak)])
    _refuse_repeated(official, weak)
    encoded = [table.rows["ytid"].combine_chunks().dictionary_encode() for table in strong]  # a clip has many events
    known = pa.concat_arrays([official, *(one.dictionary for one in encoded)])
    for one in own:
        has_id = pc.is_in(one.ytids, value_set=known, skip_nulls=True) if one.files else one.ytids.is_valid()
        encoded.append(pc.if_else(has_id, one.ytids, one.stems).dictionary_encode())
    # two million ids are looked up among the few others: the other way round takes three times as long
    others = pa.concat_arrays([pa.array([], pa.string()), *(one.dictionary for one in encoded)]).dictionary_encode()
    numbers = np.full(len(others.dictionary), -1)
    places = pc.index_in(official, value_set=others.dictionary)
    rows = np.flatnonzero(places.is_valid())
    numbers[places.drop_null().to_numpy()] = rows
    new = numbers < 0
    numbers[new] = len(official) + np.arange(np.count_nonzero(new))
    ends = np.cumsum([len(one.dictionary) for one in encoded])
    of_others = [
        numbers[others.indices.to_numpy()[end - len(one.dictionary) : end]][one.indices.to_numpy()]
        for one, end in zip(encoded, ends, strict=True)
    ]
    ends = np.cumsum([len(table.rows) for table in weak])
    of_weak = [np.arange(end - len(table.rows), end) for table, end in zip(weak, ends, strict=True)]
    return _Sources(
        pa.concat_arrays([official, others.dictionary.filter(pa.array(new))]),
        list(zip(weak, of_weak, strict=True)),
        list(zip(strong, of_others[: len(strong)], strict=True)),
        list(zip(own, of_others[len(strong) :], strict=True)),
    )


def _settle_sides(sources: _Sources) -> np.ndarray:
    """Which clips are of the eval split (clips,)."""
    side = np.zeros((2, len(sources.ids)), bool)
    for _, in_eval, clips in sources.sides():
        side[int(in_eval), clips] = True
    both = np.flatnonzero(side[0] & side[1])
    if len(both):
        where = [next(w for w, e, clips in sources.sides() if e == wanted and both[0] in clips) for wanted in (0, 1)]
        raise ValueError(
            f"{where[0]} is for training and holds {plural(len(both), 'clip')} of the eval split, such as "
            f"{_named(sources, both)} (in {where[1]}); take them out of one of the two"
        )
    return side[1]


def _refuse_repeated(official: pa.Array, weak: list[WeakTable]) -> None:
    if len(np.unique(id_uniforms(official, 0))) == len(official):  # as many numbers as ids: no two are the same
        return
    counts = pc.value_counts(official)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        where = [table.where for table in weak if pc.any(pc.is_in(table.rows["ytid"], value_set=repeated)).as_py()]
        raise ValueError(
            f"{len(repeated)} ids come more than once in {', '.join(where)}, such as "
            f"{', '.join(repeated[:NAMED].to_pylist())}; a clip is told by its id, so leave one row of each"
        )


def _named(sources: _Sources, clips: np.ndarray) -> str:
    return ", ".join(sources.ids.take(pa.array(clips[:NAMED])).to_pylist())


def _settle_subsets(sources: _Sources, in_eval: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in SUBSETS (clips,), and parts of the unbalanced table (clips,), -1 for none.

    Training takes its test side by the subset alone, so that all clips of the eval split have the subset `eval`.
    """
    subset, part = np.where(in_eval, EVAL, LIST).astype(np.int8), np.full(len(in_eval), -1, np.int16)
    for table, clips in sources.weak:
        subset[clips] = table.subset
        if SUBSETS[table.subset] == "unbalanced_train":
            part[clips] = np.arange(len(clips)) // ROWS_A_PART if table.part is None else table.part
    return subset, part


def _settle_excerpts(sources: _Sources) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of the excerpt in the video (clips,), s, NaN where no file says it; weak tables before others."""
    start, end = np.full(len(sources.ids), np.nan), np.full(len(sources.ids), np.nan)
    told = [(clips, table.rows["start_seconds"], table.rows["end_seconds"]) for table, clips in sources.weak]
    told += [(clips, one.start, one.end) for one, clips in sources.own]
    told += [(clips, table.rows["clip_start_ms"].to_numpy() / 1e3, None) for table, clips in sources.strong]
    for clips, starts, ends in told:
        unknown = np.isnan(start[clips])
        start[clips[unknown]] = np.asarray(starts)[unknown]
        if ends is not None:
            end[clips[unknown]] = np.asarray(ends)[unknown]
    return start, end


def _join_labels(sources: _Sources, labels: Labels, meant: dict[str, str]) -> pa.ListArray:
    """Weak labels of each clip as codes: of weak tables in their order, then what lists add."""
    lists = [table.rows["labels"].combine_chunks() for table, _ in sources.weak]
    clips = [
        np.repeat(numbers, pc.list_value_length(of).to_numpy())
        for of, (_, numbers) in zip(lists, sources.weak, strict=True)
    ]
    codes = [of.flatten().to_numpy().astype(np.int64) for of in lists]
    for one, numbers in sources.own:
        if one.kind == "weak":
            clips.append(numbers[one.label_rows])
            codes.append(_codes_of(one.texts, labels, meant))
    clip, code = np.concatenate([np.zeros(0, np.int64), *clips]), np.concatenate([np.zeros(0, np.int64), *codes])
    if any(one.kind == "weak" for one, _ in sources.own):
        _, first = np.unique(clip * len(labels.mids) + code, return_index=True)
        first = np.sort(first)
        order = first[np.argsort(clip[first], kind="stable")]
        clip, code = clip[order], code[order]
    offsets = np.concatenate(([0], np.cumsum(np.bincount(clip, minlength=len(sources.ids)))))
    return pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(code))


def _join_groups(sources: _Sources, tables: Sequence[GroupTable]) -> tuple[pa.Array, list[dict]]:
    """The group of each clip, null where nothing says one, and what is missing; ValueError where two are said."""
    said = [(one.where, clips, one.groups) for one, clips in sources.own if one.groups is not None]
    defects = []
    for table in tables:
        clips = table.clips_among(sources.ids)
        known = clips.is_valid()
        said.append((table.where, clips.filter(known).to_numpy().astype(np.int64), table.groups.filter(known)))
        strangers = table.stems.filter(pc.invert(known))
        if len(strangers):
            names = ", ".join(strangers[:NAMED].to_pylist()) + (", ..." if len(strangers) > NAMED else "")
            defects.append(make_defect("group_unmatched", len(strangers), detail=f"{table.where}: {names}"))
    found = np.full(len(sources.ids), None, object)
    for where, clips, groups in said:
        for clip, group in zip(clips.tolist(), groups.to_pylist(), strict=True):
            if group is not None and found[clip] not in (None, group):
                name = sources.ids[clip].as_py()
                raise ValueError(
                    f"{where}: clip {name} has the groups {found[clip]!r} and {group!r}. Give each clip one group."
                )
            found[clip] = found[clip] if group is None else group
    for one, clips in sources.own:
        alone = sum(found[clip] is None for clip in np.unique(clips).tolist())
        if alone:
            detail = f"{one.where}: each of these clips counts as a recording of its own"
            defects.append(make_defect("group_not_given", alone, detail=detail))
    return pa.array(found, pa.string()), defects


def _codes_of(texts: pa.Array, labels: Labels, meant: dict[str, str]) -> np.ndarray:
    places = {mid: code for code, mid in enumerate(labels.mids)}
    encoded = texts.dictionary_encode()
    codes = np.array([places[meant[text]] for text in encoded.dictionary.to_pylist()], np.int64)
    return codes[encoded.indices.to_numpy()] if len(texts) else np.zeros(0, np.int64)


def _join_events(
    sources: _Sources,
    start: np.ndarray,
    labels: Labels,
    meant: dict[str, str],
    target: list[str],
    defects: ClipDefects,
) -> tuple[pa.ListArray, np.ndarray]:
    """Events of each clip by start, end and label, each once; and the clips about whose excerpt tables disagree.

    A frame in which a sound was heard is left out where an event of that sound lies in it.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    disputed = np.zeros(len(sources.ids), bool)
    for table, clips in sources.strong:
        rows = table.rows
        code = pc.index_in(rows["label"], value_set=pa.array(labels.mids)).to_numpy().astype(np.int64)
        other = _other_excerpt(clips, rows["clip_start_ms"].to_numpy() / 1e3, start, defects)
        disputed[clips[other]] = True
        times = rows["start_seconds"].to_numpy(), rows["end_seconds"].to_numpy()
        part = clips, *times, code, rows["present"].to_numpy(), np.full(len(clips), table.framed)
        parts.append(tuple(column[~other] for column in part))
    for one, clips in sources.own:
        if one.kind == "weak":
            continue
        code = _event_codes(one, labels, meant, target)
        other = _other_excerpt(clips, one.start, start, defects)
        disputed[clips[other]] = True
        part = clips, one.event_start, one.event_end, code, one.present, np.full(len(clips), one.framed)
        parts.append(tuple(column[~other] for column in part))
    kinds = (np.int64, np.float32, np.float32, np.int64, bool, bool)
    columns = [
        np.concatenate([np.zeros(0, kind), *(part[place].astype(kind) for part in parts)])
        for place, kind in enumerate(kinds)
    ]
    if columns[5].any():
        kept = ~_told_by_events(*columns)
        columns = [column[kept] for column in columns]
    clip, begin, finish, code, present = columns[:5]
    # two whole numbers sort as the five columns do: the bits of a float that is not negative are in its order
    upper = clip.astype(np.uint64) << np.uint64(32) | begin.view(np.uint32)
    lower = finish.view(np.uint32).astype(np.uint64) << np.uint64(32) | (2 * code + present).astype(np.uint64)
    order = np.lexsort((lower, upper))
    first = np.ones(len(order), bool)  # two tables may hold one event
    first[1:] = (np.diff(upper[order]) != 0) | (np.diff(lower[order]) != 0)
    clip, begin, finish, code, present = (column[order][first] for column in columns[:5])
    offsets = np.concatenate(([0], np.cumsum(np.bincount(clip, minlength=len(sources.ids)))))
    events = pa.StructArray.from_arrays(
        [pa.array(column) for column in (code, begin, finish, present)], fields=list(EVENT)
    )
    return pa.ListArray.from_arrays(offsets.astype(np.int32), events), disputed


def _told_by_events(
    clip: np.ndarray, begin: np.ndarray, finish: np.ndarray, code: np.ndarray, present: np.ndarray, frame: np.ndarray
) -> np.ndarray:
    """Frames in which an event of their label lies (events,) bool: the event says the same, and when exactly."""
    frames, events = np.flatnonzero(frame & present), np.flatnonzero(~frame & present)
    group = clip << 16 | code
    events = events[np.lexsort((begin[events], group[events]))]
    groups, of = np.unique(group[events], return_inverse=True)
    far = 1e7  # s, longer than any file
    latest = np.maximum.accumulate(of * far + finish[events]) - of * far  # end of what began so far in the group
    rank = np.searchsorted(groups, group[frames])
    keys = of.astype(np.uint64) << np.uint64(32) | begin[events].view(np.uint32)
    wanted = rank.astype(np.uint64) << np.uint64(32) | finish[frames].view(np.uint32)
    last = np.searchsorted(keys, wanted) - 1  # the last event of the group that begins before the frame ends
    told = np.zeros(len(clip), bool)
    if len(events):
        same = (last >= 0) & (group[events[last]] == group[frames])
        told[frames] = same & (latest[last] > begin[frames])
    return told


def _other_excerpt(clips: np.ndarray, told: np.ndarray, start: np.ndarray, defects: ClipDefects) -> np.ndarray:
    """Rows that are about another excerpt of their video than the clip is; their clips say so."""
    with np.errstate(invalid="ignore"):
        other = np.abs(told - start[clips]) > SAME_START
    rows = np.flatnonzero(other)
    _, first = np.unique(clips[rows], return_index=True)
    defects.add(clips[rows[first]], "other_excerpt", told[rows[first]] - start[clips[rows[first]]])
    return other


def _event_codes(one: OwnList, labels: Labels, meant: dict[str, str], target: list[str]) -> np.ndarray:
    """Codes of a list's events, which are the target's in a list of positives, and others in one of negatives."""
    if not target:
        raise ValueError(
            f"{one.where} is a list of events for a target; say which, as --target 'Baby cry, infant cry'"
        )
    wanted = [labels.mids.index(mid) for mid in target]
    if not len(one.texts):
        if len(wanted) > 1:
            raise ValueError(f"{one.where} has no label, which it needs where the target has several ({len(wanted)})")
        return np.full(len(one), wanted[0])
    codes = _codes_of(one.texts, labels, meant)
    wrong = np.flatnonzero(np.isin(codes, wanted) != (one.kind == "pos_strong"))
    if len(wrong):
        is_target = "is the target, in a list of negatives" if one.kind == "neg_strong" else "is not the target"
        raise ValueError(f"{one.line(wrong[0])}: {one.texts[int(wrong[0])].as_py()!r} {is_target}")
    return codes


def _note_late_events(events: pa.ListArray, seconds: np.ndarray, defects: ClipDefects) -> None:
    """Say where an event begins when its excerpt is over."""
    clip = pc.list_parent_indices(events).to_numpy()
    begin = events.flatten().field("start_seconds").to_numpy()
    with np.errstate(invalid="ignore"):
        late = np.flatnonzero(begin >= seconds[clip] + 1e-3)
    if len(late):
        clips, first = np.unique(clip[late], return_index=True)
        defects.add(clips, "event_outside", begin[late[first]] - seconds[clips])


def _named_paths(sources: _Sources) -> pa.Array | None:
    """Where lists name files in folders; ValueError when two such files are one clip by their names."""
    named: dict[int, tuple[str, str]] = {}
    for one, clips in sources.own:
        for row in np.flatnonzero(one.paths.is_valid().to_numpy(zero_copy_only=False)).tolist():
            path = one.paths[row].as_py()
            other, where = named.setdefault(int(clips[row]), (path, one.line(row)))
            if other != path:
                raise ValueError(f"{one.line(row)}: {path} has the name of {other} ({where}); clips are told by names")
    if not named:
        return None
    return pa.array([named.get(clip, (None,))[0] for clip in range(len(sources.ids))], pa.string())
