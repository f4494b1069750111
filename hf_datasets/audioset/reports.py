"""What `prepare` writes beside AudioSet's rows: how tables and sounds agree, what each class loses, and weights.

All of it is made from the finished rows, for whether a file is a sound is only known when it was opened.
"""

import gzip
import io
import json
import re
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from media.audioset import (
    TRIMS,
    WEIGHTS,
    class_counts,
    clips_with,
    label_lists,
    label_weights,
    trim_heads,
)
from system.text import RUN_BY_SPREADSHEETS, csv_text, plural

from ..shards import RowReader
from .sound_files import SUBSETS
from .tree import Tree

HEADS = ("/m/09x0r", "/m/04rlf")  # Speech and Music, on 82 % of the real clips
KEEP_FRACTION, FLOOR, TRIM_SEED = 0.2, 100, 0  # as training does it by default
FATES = {  # column of reconciliation.csv: the defect that it counts
    "missing": "clip_missing",
    "too_small": "clip_too_small",
    "folder": "clip_is_folder",
    "unreadable": "clip_unreadable",
    "too_long": "clip_too_long",
    "other_excerpt": "other_excerpt",
    "too_short": "clip_too_short",
    "duplicate": "duplicate_file",
    "wrong_folder": "wrong_folder",
}
LOSSES = ("missing", "too_small", "folder", "unreadable", "too_long", "other_excerpt")  # after which no file is left
HELD = 12  # shards whose lines wait to be packed, 4 MB each
COMMON = 10  # labels named beside a target
LINK = "https://www.youtube.com/watch?v={}&t={}s"


@dataclass(frozen=True)
class Outcome:
    """What became of each clip, in the order of the tree."""

    usable: np.ndarray  # (clips,) bool, has a sound
    fates: dict[str, np.ndarray]  # (clips,) bool for each of FATES


def summarise(tree: Tree, rows: RowReader) -> tuple[dict[str, str | bytes], str]:
    """The files by name, and what is printed. No usable clip where sounds were looked for is a ValueError."""
    with ThreadPoolExecutor(1) as pool:  # packs clips.csv while the rest is made
        outcome, packed = _read_outcome(tree, rows, pool)
        files, said = _summarise(tree, outcome)
        files["clips.csv.gz"] = b"".join(part.result() for part in packed)
    return files, said


def _summarise(tree: Tree, outcome: Outcome) -> tuple[dict[str, str | bytes], str]:
    if tree.reading.location is not None and not outcome.usable.any():
        raise ValueError(
            f"none of {plural(len(outcome.usable), 'clip')} has a usable sound in {tree.reading.location}; "
            + ", ".join(f"{name} {np.count_nonzero(found)}" for name, found in outcome.fates.items() if found.any())
        )
    trained = _trained(tree, outcome)
    files: dict[str, str | bytes] = {
        "reconciliation.csv": reconciliation_csv(tree, outcome),
        "classes.csv": classes_csv(tree, outcome, trained),
    }
    if tree.reading.location is not None:
        files["missing_ids.csv"] = missing_csv(tree, outcome)
    said = [describe(tree, outcome)]
    if tree.target:
        record = target_record(tree)
        files["target.json"] = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        said.append(describe_target(record))
    return files, "\n".join(said)


def _read_outcome(tree: Tree, rows: RowReader, pool: ThreadPoolExecutor) -> tuple[Outcome, list[Future]]:
    """What became of the clips, and the csv of all of them, which is being packed: one pass over finished shards."""
    order = np.concatenate([np.flatnonzero(~tree.in_eval), np.flatnonzero(tree.in_eval)])  # as shards are written
    usable = np.zeros(len(order), bool)
    fates = {name: np.zeros(len(order), bool) for name in FATES}
    packed: list[Future] = []
    begin = 0
    for split, shard in rows(["clip_id", "audio.path", "audio_seconds", "defects"]):
        clips = order[begin : begin + len(shard)]
        begin += len(shard)
        paths = pc.struct_field(shard["audio"].combine_chunks(), "path")
        usable[clips] = paths.is_valid().to_numpy(zero_copy_only=False)
        defects = shard["defects"].combine_chunks()
        of = pc.list_parent_indices(defects).to_numpy()
        what = defects.flatten().field("what")
        for name, kind in FATES.items():
            fates[name][clips[of[pc.equal(what, kind).to_numpy(zero_copy_only=False)]]] = True
        table = _csv_table(tree, split, clips, shard, paths, what, defects)
        lines = io.BytesIO()
        pa.csv.write_csv(_safe(table), lines, pa.csv.WriteOptions(include_header=begin == len(shard)))
        if len(packed) >= HELD:
            packed[-HELD].result()  # so that no more lines are held
        packed.append(pool.submit(gzip.compress, lines.getvalue(), 1, mtime=0))
    return Outcome(usable, fates), packed


def _csv_table(
    tree: Tree,
    split: str,
    clips: np.ndarray,
    shard: pa.Table,
    paths: pa.Array,
    what: pa.Array,
    defects: pa.ListArray,
) -> pa.Table:
    table = tree.table.take(pa.array(clips)) if len(clips) != len(tree.table) else tree.table
    labels = table["labels"].combine_chunks()
    mids = pa.array(tree.labels.mids).take(labels.flatten())
    joined = pc.binary_join(pa.ListArray.from_arrays(labels.offsets, mids), ",")
    kinds = pc.binary_join(pa.ListArray.from_arrays(defects.offsets, what), ",")
    return pa.table(
        {
            "clip_id": table["clip_id"],
            "split": pa.repeat(split, len(clips)),
            **{name: table[name] for name in ("subset", "part", "start_seconds", "end_seconds")},
            "labels": joined,
            "events": pc.list_value_length(table["events"]),
            "strongly_labelled": table["strongly_labelled"],
            "audio": paths,
            "audio_seconds": shard["audio_seconds"],
            "defects": kinds,
        }
    )


def reconciliation_csv(tree: Tree, outcome: Outcome) -> str:
    """A line for each split, subset and part, and one for all: clips, found files, usable ones, and what is wrong."""
    subset = tree.table["subset"].combine_chunks().dictionary_encode()
    part = tree.table["part"].fill_null(-1).to_numpy().astype(np.int64)
    names = subset.dictionary.to_pylist()
    keys = (tree.in_eval * len(names) + subset.indices.to_numpy()) * 1000 + part + 1
    lines = [["split", "subset", "part", "clips", "found", "usable", *FATES]]
    for key in np.unique(keys):
        clips = keys == key
        side, name = divmod(int(key) // 1000, len(names))
        place = ["eval" if side else "train", names[name], key % 1000 - 1 if key % 1000 else ""]
        lines.append([*place, *_counts(tree, outcome, clips)])
    lines.append(["all", "", "", *_counts(tree, outcome, np.ones(len(keys), bool))])
    return csv_text(lines)


def _counts(tree: Tree, outcome: Outcome, clips: np.ndarray) -> list:
    if tree.reading.location is None:
        return [np.count_nonzero(clips), *[""] * (2 + len(FATES))]
    found = clips & ~outcome.fates["missing"]
    counts = [np.count_nonzero(clips & fate) for fate in outcome.fates.values()]
    return [np.count_nonzero(clips), np.count_nonzero(found), np.count_nonzero(clips & outcome.usable), *counts]


def classes_csv(tree: Tree, outcome: Outcome, trained: pa.Table) -> str:
    """A line a label: clips and loss by split, strong events, clips that head trimming leaves, and weights."""
    count = len(tree.labels.mids)
    sides = {"train": ~tree.in_eval, "eval": tree.in_eval}
    columns: dict[str, list] = {}
    for side, clips in sides.items():
        clips_of = class_counts(tree.table, count, clips)
        columns[f"{side}_clips"] = clips_of.tolist()
        if tree.reading.location is not None:
            usable = class_counts(tree.table, count, clips & outcome.usable)
            columns[f"{side}_usable"] = usable.tolist()
            loss = 1 - usable / np.maximum(clips_of, 1)
            columns[f"{side}_loss"] = [f"{x:.4f}" if n else "" for x, n in zip(loss, clips_of, strict=True)]
    events = tree.table["events"].combine_chunks().flatten()
    present = events.field("label").filter(events.field("present")).to_numpy()
    columns["events"] = np.bincount(present, minlength=count).tolist()
    heads = [code for code, mid in enumerate(tree.labels.mids) if mid in HEADS]
    table = pa.table({"ytid": trained["clip_id"], "labels": trained["labels"]})
    of_unbalanced = pc.equal(trained["subset"], SUBSETS[0]).to_numpy()
    for mode in TRIMS:
        keep = trim_heads(table, heads, KEEP_FRACTION, mode, TRIM_SEED, count, FLOOR) | ~of_unbalanced
        columns[f"{mode}_clips"] = class_counts(table, count, keep).tolist()
    counts = class_counts(table, count)
    for scheme in WEIGHTS:
        weights = label_weights(counts, scheme)
        columns[f"{scheme}_weight"] = [f"{x:.6g}" if n else "" for x, n in zip(weights, counts, strict=True)]
    rows = zip(tree.labels.mids, tree.labels.names, *columns.values(), strict=True)
    return csv_text([("mid", "name", *columns), *rows])


def _trained(tree: Tree, outcome: Outcome) -> pa.Table:
    """The train split's clips with a sound, or all of it where none were looked for."""
    clips = ~tree.in_eval if tree.reading.location is None else ~tree.in_eval & outcome.usable
    return tree.table.select(["clip_id", "subset", "labels"]).filter(pa.array(clips))


def missing_csv(tree: Tree, outcome: Outcome) -> bytes:
    """The clips without a usable sound, why, and where in YouTube they are."""
    clips = np.flatnonzero(~outcome.usable)
    table = tree.table.select(["clip_id", "subset", "part", "start_seconds", "end_seconds"]).take(pa.array(clips))
    why = np.full(len(clips), "", dtype="<U13")
    for name in reversed(LOSSES):
        why[outcome.fates[name][clips]] = name
    begin, end = (part for part in LINK.split("{}")[:2])
    seconds = pc.fill_null(pc.cast(pc.floor(table["start_seconds"]), pa.int64()), 0).cast(pa.string())
    official = pc.equal(pc.binary_length(table["clip_id"]), 11)
    link = pc.binary_join_element_wise(begin, table["clip_id"], end, seconds, "s", "")
    table = table.append_column("why", pa.array(why)).append_column("link", pc.if_else(official, link, ""))
    file = io.BytesIO()
    pa.csv.write_csv(_safe(table), file)
    return file.getvalue()


def _safe(table: pa.Table) -> pa.Table:
    """A table for people: text that a spreadsheet would run as a formula gets a `'` before it, as by `safe_cell`."""
    pattern = f"^([{re.escape(''.join(RUN_BY_SPREADSHEETS))}])"
    for place, name in enumerate(table.column_names):
        if pa.types.is_string(table[name].type):
            safe = pc.replace_substring_regex(table[name], pattern=pattern, replacement=r"'\1")
            table = table.set_column(place, name, safe)
    return table


def describe(tree: Tree, outcome: Outcome) -> str:
    """One line a split: clips, and how many have a sound."""
    lines = []
    for side, clips in (("train", ~tree.in_eval), ("eval", tree.in_eval)):
        count, usable = np.count_nonzero(clips), np.count_nonzero(clips & outcome.usable)
        line = f"{side}: {plural(count, 'clip')}"
        if tree.reading.location is None:
            line += ", their sounds were not looked for"
        elif count:
            line += f", {usable:,} with a usable sound, {1 - usable / count:.1%} lost"
            lost = {name: np.count_nonzero(clips & ~outcome.usable & outcome.fates[name]) for name in LOSSES}
            line += "".join(f", {number:,} {name}" for name, number in lost.items() if number)
        lines.append(line)
    return "\n".join(lines)


def target_record(tree: Tree) -> dict:
    """What is known of the target: its labels, what is near it, and what each rule keeps out of its negatives."""
    labels, target = tree.labels, tree.target
    names = dict(zip(labels.mids, labels.names, strict=True))
    if tree.ontology is not None:
        names = tree.ontology.names | names
    related = {mid for one in target for mid in (tree.ontology.related(one) if tree.ontology else ())} - set(target)
    siblings = {mid for one in target for mid in (tree.ontology.siblings(one) if tree.ontology else ())}
    weak = [(pa.table({"ytid": tree.table["clip_id"], "labels": tree.table["labels"]}), labels.mids)]
    events = tree.table["events"].combine_chunks()
    rows = events.flatten()
    strong = [
        pa.table(
            {
                "ytid": tree.table["clip_id"].take(pc.list_parent_indices(events)),
                "label": pa.array(labels.mids).take(rows.field("label")),
                "present": rows.field("present"),
            }
        )
    ]
    removed: set[str] = set()
    rules = []
    for wanted, what in ((target, "the target"), (sorted(related), "a related label")):
        for weak_tables, strong_tables, where in ((weak, [], "by weak labels"), ([], strong, "by strong ones alone")):
            found = clips_with(wanted, weak_tables, strong_tables) - removed
            rules.append({"rule": f"holds {what} {where}", "clips": len(found)})
            removed |= found
    codes, edges = label_lists(weak[0][0])
    clips = np.repeat(np.arange(len(tree.table)), np.diff(edges))
    held = np.isin(clips, clips[np.isin(codes, [labels.mids.index(mid) for mid in target])])
    together = Counter({labels.mids[code]: int(n) for code, n in enumerate(np.bincount(codes[held])) if n})
    everywhere = np.bincount(codes, minlength=len(labels.mids))

    def entries(mids: list[str]) -> list[dict]:
        numbers = [int(everywhere[labels.mids.index(mid)]) if mid in labels.mids else 0 for mid in mids]
        return [
            {"mid": mid, "name": names.get(mid, mid), "clips": count, "with_target": together[mid]}
            for mid, count in zip(mids, numbers, strict=True)
        ]

    others = [mid for mid, _ in together.most_common() if mid not in {*target, *related}]
    return {
        "target": entries(target),
        "related": entries(sorted(related, key=lambda mid: (-together[mid], mid))),
        "siblings": entries(sorted(siblings - set(target) - related, key=lambda mid: (-together[mid], mid))),
        "heard_together": entries(others[:COMMON]),
        "rules": rules,
        "negatives": len(tree.table) - len(removed),
    }


def describe_target(record: dict) -> str:
    """The same for people."""
    lines = [
        "target: "
        + "; ".join(f"{one['name']} ({one['mid']}), {plural(one['clips'], 'clip')}" for one in record["target"])
    ]
    for key, what in (
        ("related", "related, in no negative"),
        ("siblings", "siblings, good negatives"),
        ("heard_together", "often heard with it"),
    ):
        named = ", ".join(f"{one['name']} ({one['with_target']:,} of {one['clips']:,})" for one in record[key])
        lines.append(f"{what}: {named or 'none'}")
    lines += [f"{plural(rule['clips'], 'clip'):>15}: {rule['rule']}" for rule in record["rules"]]
    lines.append(f"{plural(record['negatives'], 'clip'):>15}: left as negatives")
    return "\n".join(lines)
