"""Join weak tables, strong tables and the user's own lists by clip id into one table of all clips."""

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
from .table_formats import ROWS_PER_PART
from .tables import StrongTable, WeakTable

EVAL, LIST = SUBSETS.index("eval"), SUBSETS.index("list")
SAME_START = 0.5  # s; starts that differ by less are the same excerpt, rounded differently by two tables
MAX_NAMED = 5  # ids named in an error
EVENT = pa.struct(
    [("label", pa.int64()), ("start_seconds", pa.float32()), ("end_seconds", pa.float32()), ("present", pa.bool_())]
)


@dataclass
class ClipDefects:
    """Collect defects of clips, by clip number, as columns: two million clips may each have one."""

    rows: list[np.ndarray] = field(default_factory=list)
    defects: list[pa.StructArray] = field(default_factory=list)

    def add(
        self, rows: np.ndarray, what: str, how_much: np.ndarray | None = None, detail: pa.Array | None = None
    ) -> None:
        """Add one defect of the kind `what` to each of these clips."""
        if len(rows):
            self.rows.append(np.asarray(rows, np.int64))
            self.defects.append(defect_array(len(rows), what, how_much, detail))

    def lists(self, clips: int) -> pa.ListArray:
        """Return the column `defects` for `clips` clips."""
        if not self.rows:
            # An empty column still needs the type of a defect; any kind will do.
            return defect_lists(np.zeros(0, np.int64), defect_array(0, "clip_missing"), clips)
        return defect_lists(np.concatenate(self.rows), pa.concat_arrays(self.defects), clips)


def defect_array(
    count: int, what: str, how_much: np.ndarray | None = None, detail: pa.Array | None = None
) -> pa.StructArray:
    """Return `count` defects of one kind as structs, in the format of the column `defects`."""
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
    """Return the column `defects` for `clips` clips; each clip's defects keep their order."""
    # A stable sort keeps that order within a clip.
    offsets = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=clips)))).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, defects.take(pa.array(np.argsort(rows, kind="stable"))))


@dataclass(frozen=True)
class Clips:
    """All clips: first those of the weak tables, in table order, then those that only strong tables or lists have.

    `table` has the columns clip_id, subset, part, start_seconds, end_seconds, labels, events, strongly_labelled and
    group (null: the clip is its own group).
    """

    table: pa.Table
    in_eval: np.ndarray  # (clips,) bool
    subset: np.ndarray  # (clips,) int8, position in SUBSETS
    part: np.ndarray  # (clips,) int16, -1 for none
    paths: pa.Array | None  # (clips,) strings; null where no list gives a path with folders
    disputed: np.ndarray  # (clips,) bool, tables disagree about the excerpt
    defects: ClipDefects
    group_defects: list[dict]  # about lists and group tables as a whole, not about one clip


@dataclass(frozen=True)
class _Sources:
    """The ids of all clips (position = clip number), and per file the clip number of each row (rows,)."""

    ids: pa.Array
    weak: list[tuple[WeakTable, np.ndarray]]
    strong: list[tuple[StrongTable, np.ndarray]]
    own: list[tuple[OwnList, np.ndarray]]

    def sides(self) -> list[tuple[str, bool, np.ndarray]]:
        """Return for each file its path, whether it belongs to the eval split, and its clip numbers."""
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
    """Make one row per clip. Raise ValueError if a clip is in both the train and the eval split.

    Args:
        meant: the MID of every label text in the user's lists.
        target: MIDs of the target; every event in a list of positives has one of these labels.
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
    """Number the clips: those of the weak tables in table order, then new ones in order of first appearance."""
    official = pa.concat_arrays([pa.array([], pa.string()), *(t.rows["ytid"].combine_chunks() for t in weak)])
    _refuse_repeated(official, weak)
    # One row per event: a clip's id repeats, so dictionaries are much shorter than the tables.
    encoded = [table.rows["ytid"].combine_chunks().dictionary_encode() for table in strong]
    known_ids = pa.concat_arrays([official, *(one.dictionary for one in encoded)])
    for one in own:
        # A file name may look like a YouTube id by chance, so it counts as one only if the tables have that id.
        has_id = pc.is_in(one.ytids, value_set=known_ids, skip_nulls=True) if one.files else one.ytids.is_valid()
        encoded.append(pc.if_else(has_id, one.ytids, one.stems).dictionary_encode())
    # Look up two million official ids among the few other ones: the other way round takes three times as long.
    other_ids = pa.concat_arrays([pa.array([], pa.string()), *(one.dictionary for one in encoded)])
    other_ids = other_ids.dictionary_encode()
    numbers = np.full(len(other_ids.dictionary), -1)
    positions = pc.index_in(official, value_set=other_ids.dictionary)
    rows = np.flatnonzero(positions.is_valid())
    numbers[positions.drop_null().to_numpy()] = rows
    new = numbers < 0
    numbers[new] = len(official) + np.arange(np.count_nonzero(new))
    ends = np.cumsum([len(one.dictionary) for one in encoded])
    of_others = [
        numbers[other_ids.indices.to_numpy()[end - len(one.dictionary) : end]][one.indices.to_numpy()]
        for one, end in zip(encoded, ends, strict=True)
    ]
    ends = np.cumsum([len(table.rows) for table in weak])
    of_weak = [np.arange(end - len(table.rows), end) for table, end in zip(weak, ends, strict=True)]
    return _Sources(
        pa.concat_arrays([official, other_ids.dictionary.filter(pa.array(new))]),
        list(zip(weak, of_weak, strict=True)),
        list(zip(strong, of_others[: len(strong)], strict=True)),
        list(zip(own, of_others[len(strong) :], strict=True)),
    )


def _settle_sides(sources: _Sources) -> np.ndarray:
    """Return which clips belong to the eval split (clips,) bool."""
    side = np.zeros((2, len(sources.ids)), bool)
    for _, in_eval, clips in sources.sides():
        side[int(in_eval), clips] = True
    both = np.flatnonzero(side[0] & side[1])
    if len(both):
        where = [next(w for w, e, clips in sources.sides() if e == wanted and both[0] in clips) for wanted in (0, 1)]
        raise ValueError(
            f"{where[0]}: a file for training holds {plural(len(both), 'clip')} of the eval split, for example "
            f"{_named(sources, both)}. Remove them here or from {where[1]}."
        )
    return side[1]


def _refuse_repeated(official: pa.Array, weak: list[WeakTable]) -> None:
    # Fast path: equal ids hash to equal numbers, so if all numbers differ, all ids differ.
    if len(np.unique(id_uniforms(official, 0))) == len(official):
        return
    counts = pc.value_counts(official)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        where = [table.where for table in weak if pc.any(pc.is_in(table.rows["ytid"], value_set=repeated)).as_py()]
        raise ValueError(
            f"{', '.join(where)}: {plural(len(repeated), 'id')} repeated, for example "
            f"{', '.join(repeated[:MAX_NAMED].to_pylist())}. Keep one row per id."
        )


def _named(sources: _Sources, clips: np.ndarray) -> str:
    return ", ".join(sources.ids.take(pa.array(clips[:MAX_NAMED])).to_pylist())


def _settle_subsets(sources: _Sources, in_eval: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positions in SUBSETS (clips,), and parts of the unbalanced table (clips,), -1 for none."""
    # Training picks its test split by the subset alone, so every clip of the eval split needs the subset `eval`.
    subset, part = np.where(in_eval, EVAL, LIST).astype(np.int8), np.full(len(in_eval), -1, np.int16)
    for table, clips in sources.weak:
        subset[clips] = table.subset
        if SUBSETS[table.subset] == "unbalanced_train":
            part[clips] = np.arange(len(clips)) // ROWS_PER_PART if table.part is None else table.part
    return subset, part


def _settle_excerpts(sources: _Sources) -> tuple[np.ndarray, np.ndarray]:
    """Return start and end of the excerpt in the video (clips,), in s; NaN if no file gives them."""
    start, end = np.full(len(sources.ids), np.nan), np.full(len(sources.ids), np.nan)
    # In order of precedence: the first file that gives an excerpt decides.
    excerpts = [(clips, table.rows["start_seconds"], table.rows["end_seconds"]) for table, clips in sources.weak]
    excerpts += [(clips, one.start, one.end) for one, clips in sources.own]
    excerpts += [(clips, table.rows["clip_start_ms"].to_numpy() / 1e3, None) for table, clips in sources.strong]
    for clips, starts, ends in excerpts:
        unknown = np.isnan(start[clips])
        start[clips[unknown]] = np.asarray(starts)[unknown]
        if ends is not None:
            end[clips[unknown]] = np.asarray(ends)[unknown]
    return start, end


def _join_labels(sources: _Sources, labels: Labels, meant: dict[str, str]) -> pa.ListArray:
    """Return the weak labels of each clip as codes: those of the weak tables in order, then those of the lists."""
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
        # Lists may repeat a table's labels, and their rows are not in clip order.
        _, first = np.unique(clip * len(labels.mids) + code, return_index=True)
        first = np.sort(first)
        order = first[np.argsort(clip[first], kind="stable")]
        clip, code = clip[order], code[order]
    offsets = np.concatenate(([0], np.cumsum(np.bincount(clip, minlength=len(sources.ids)))))
    return pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(code))


def _join_groups(sources: _Sources, tables: Sequence[GroupTable]) -> tuple[pa.Array, list[dict]]:
    """Return the group of each clip (null for none), and defects; raise ValueError if a clip has two groups."""
    files = [(one.where, clips, one.groups) for one, clips in sources.own if one.groups is not None]
    defects = []
    for table in tables:
        clips = table.match_clips(sources.ids)
        matched = clips.is_valid()
        files.append((table.where, clips.filter(matched).to_numpy().astype(np.int64), table.groups.filter(matched)))
        unmatched = table.stems.filter(pc.invert(matched))
        if len(unmatched):
            names = ", ".join(unmatched[:MAX_NAMED].to_pylist()) + (", ..." if len(unmatched) > MAX_NAMED else "")
            defects.append(make_defect("group_unmatched", len(unmatched), detail=f"{table.where}: {names}"))
    group_of = np.full(len(sources.ids), None, object)
    for where, clips, groups in files:
        for clip, group in zip(clips.tolist(), groups.to_pylist(), strict=True):
            if group is not None and group_of[clip] not in (None, group):
                name = sources.ids[clip].as_py()
                raise ValueError(
                    f"{where}: clip {name} has the groups {group_of[clip]!r} and {group!r}. Give each clip one group."
                )
            group_of[clip] = group_of[clip] if group is None else group
    for one, clips in sources.own:
        alone = sum(group_of[clip] is None for clip in np.unique(clips).tolist())
        if alone:
            detail = f"{one.where}: each of these clips counts as a separate recording"
            defects.append(make_defect("group_not_given", alone, detail=detail))
    return pa.array(group_of, pa.string()), defects


def _codes_of(texts: pa.Array, labels: Labels, meant: dict[str, str]) -> np.ndarray:
    code_of = {mid: code for code, mid in enumerate(labels.mids)}
    encoded = texts.dictionary_encode()
    codes = np.array([code_of[meant[text]] for text in encoded.dictionary.to_pylist()], np.int64)
    return codes[encoded.indices.to_numpy()] if len(texts) else np.zeros(0, np.int64)


def _join_events(
    sources: _Sources,
    start: np.ndarray,
    labels: Labels,
    meant: dict[str, str],
    target: list[str],
    defects: ClipDefects,
) -> tuple[pa.ListArray, np.ndarray]:
    """Return the events of each clip, sorted and unique, and the clips whose tables name different excerpts.

    Events are sorted by start, end and label. A PRESENT frame that overlaps an event of its label is left out.
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
    dtypes = (np.int64, np.float32, np.float32, np.int64, bool, bool)
    columns = [
        np.concatenate([np.zeros(0, dtype), *(part[i].astype(dtype) for part in parts)])
        for i, dtype in enumerate(dtypes)
    ]
    if columns[5].any():
        keep = ~_covered_by_events(*columns)
        columns = [column[keep] for column in columns]
    clip, begin, finish, code, present = columns[:5]
    # Pack the five sort columns into two integers, which sort faster. This works because the bits of a non-negative
    # float, read as an integer, sort like the float itself.
    upper = clip.astype(np.uint64) << np.uint64(32) | begin.view(np.uint32)
    lower = finish.view(np.uint32).astype(np.uint64) << np.uint64(32) | (2 * code + present).astype(np.uint64)
    order = np.lexsort((lower, upper))
    first = np.ones(len(order), bool)  # drops duplicates: two tables may list the same event
    first[1:] = (np.diff(upper[order]) != 0) | (np.diff(lower[order]) != 0)
    clip, begin, finish, code, present = (column[order][first] for column in columns[:5])
    offsets = np.concatenate(([0], np.cumsum(np.bincount(clip, minlength=len(sources.ids)))))
    events = pa.StructArray.from_arrays(
        [pa.array(column) for column in (code, begin, finish, present)], fields=list(EVENT)
    )
    return pa.ListArray.from_arrays(offsets.astype(np.int32), events), disputed


def _covered_by_events(
    clip: np.ndarray, begin: np.ndarray, finish: np.ndarray, code: np.ndarray, present: np.ndarray, frame: np.ndarray
) -> np.ndarray:
    """Return the PRESENT frames that overlap an event of their label (events,) bool.

    They are redundant: the event says the same, with exact times. All arguments are columns (events,).
    """
    frames, events = np.flatnonzero(frame & present), np.flatnonzero(~frame & present)
    group = clip << 16 | code  # a clip and a label
    events = events[np.lexsort((begin[events], group[events]))]
    groups, of = np.unique(group[events], return_inverse=True)
    # Running maximum of the ends within each group: an offset larger than any end separates the groups, so that one
    # pass over all events is enough.
    far = 1e7  # s, longer than any file
    latest = np.maximum.accumulate(of * far + finish[events]) - of * far
    rank = np.searchsorted(groups, group[frames])
    keys = of.astype(np.uint64) << np.uint64(32) | begin[events].view(np.uint32)
    wanted = rank.astype(np.uint64) << np.uint64(32) | finish[frames].view(np.uint32)
    last = np.searchsorted(keys, wanted) - 1  # the last event of the group that begins before the frame ends
    covered = np.zeros(len(clip), bool)
    if len(events):
        same = (last >= 0) & (group[events[last]] == group[frames])
        covered[frames] = same & (latest[last] > begin[frames])
    return covered


def _other_excerpt(clips: np.ndarray, starts: np.ndarray, start: np.ndarray, defects: ClipDefects) -> np.ndarray:
    """Return the rows (rows,) bool whose excerpt is not the clip's, and add a defect to their clips.

    Args:
        starts: start of the excerpt by each row (rows,), s.
        start: start of each clip's excerpt (clips,), s.
    """
    with np.errstate(invalid="ignore"):  # NaN, an unknown start, never differs
        other = np.abs(starts - start[clips]) > SAME_START
    rows = np.flatnonzero(other)
    _, first = np.unique(clips[rows], return_index=True)
    defects.add(clips[rows[first]], "other_excerpt", starts[rows[first]] - start[clips[rows[first]]])
    return other


def _event_codes(one: OwnList, labels: Labels, meant: dict[str, str], target: list[str]) -> np.ndarray:
    """Return the codes of a list's events (rows,).

    Raise ValueError if a list of positives holds anything but the target, or a list of negatives holds the target.
    """
    if not target:
        raise ValueError(
            f"{one.where}: a list of events needs a target. Give one, for example --target 'Baby cry, infant cry'."
        )
    wanted = [labels.mids.index(mid) for mid in target]
    if not len(one.texts):
        if len(wanted) > 1:
            raise ValueError(
                f"{one.where}: no label column, but there are {len(wanted)} targets. Add a column `label`."
            )
        return np.full(len(one), wanted[0])
    codes = _codes_of(one.texts, labels, meant)
    wrong = np.flatnonzero(np.isin(codes, wanted) != (one.kind == "pos_strong"))
    if len(wrong):
        problem = (
            "the target in a list of negatives"
            if one.kind == "neg_strong"
            else "not the target, in a list of positives"
        )
        label = one.texts[int(wrong[0])].as_py()
        raise ValueError(f"{one.line(wrong[0])}: label={label!r}: {problem}. Remove the row.")
    return codes


def _note_late_events(events: pa.ListArray, seconds: np.ndarray, defects: ClipDefects) -> None:
    """Add a defect to clips with an event that begins after the excerpt's end."""
    clip = pc.list_parent_indices(events).to_numpy()
    begin = events.flatten().field("start_seconds").to_numpy()
    with np.errstate(invalid="ignore"):  # NaN: the length of the excerpt is not known
        late = np.flatnonzero(begin >= seconds[clip] + 1e-3)  # 1 ms for the rounding of float32
    if len(late):
        clips, first = np.unique(clip[late], return_index=True)
        defects.add(clips, "event_outside", begin[late[first]] - seconds[clips])


def _named_paths(sources: _Sources) -> pa.Array | None:
    """Return the path that lists give for each clip, null for none; None if no list gives paths with folders.

    Raise ValueError if two files in different folders have the same name, because the name identifies the clip.
    """
    named: dict[int, tuple[str, str]] = {}
    for one, clips in sources.own:
        for row in np.flatnonzero(one.paths.is_valid().to_numpy(zero_copy_only=False)).tolist():
            path = one.paths[row].as_py()
            other, where = named.setdefault(int(clips[row]), (path, one.line(row)))
            if other != path:
                raise ValueError(
                    f"{one.line(row)}: {path} and {other} ({where}) have the same name, which identifies the clip. "
                    "Rename one."
                )
    if not named:
        return None
    return pa.array([named.get(clip, (None,))[0] for clip in range(len(sources.ids))], pa.string())
