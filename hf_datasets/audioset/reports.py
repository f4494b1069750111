"""Make the files that `prepare` writes next to AudioSet's rows: matches of tables and sounds, losses and weights.

They are made from the finished rows because a file is only known to be a sound once it has been opened.
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
from system.text import FORMULA_STARTS, csv_text, plural

from ..shards import RowReader
from .sound_files import SUBSETS
from .tree import Tree

HEADS = ("/m/09x0r", "/m/04rlf")  # Speech and Music: 82 % of the real clips have one of them
KEEP_FRACTION, FLOOR, TRIM_SEED = 0.2, 100, 0  # the defaults of training
FATES = {  # column of reconciliation.csv: the kind of defect that it counts
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
# The fates that leave a clip without a usable file. If a clip has several, missing_ids.csv names the first of these.
LOSSES = ("missing", "too_small", "folder", "unreadable", "too_long", "other_excerpt")
MAX_WAITING = 12  # shards whose csv lines wait for compression, 4 MB each
MAX_HEARD_TOGETHER = 10  # labels that often occur together with the target, in target.json
LINK = "https://www.youtube.com/watch?v={}&t={}s"


@dataclass(frozen=True)
class Outcome:
    """What became of each clip, in the order of `Tree.table`."""

    usable: np.ndarray  # (clips,) bool: the clip has a sound
    fates: dict[str, np.ndarray]  # (clips,) bool for each of FATES


def summarise(tree: Tree, rows: RowReader) -> tuple[dict[str, str | bytes], str]:
    """Return the files by name, and the text to print.

    Raise ValueError if a folder of sounds was given but no clip has a usable sound.
    """
    with ThreadPoolExecutor(1) as pool:  # compresses clips.csv while the other files are made
        outcome, packed = _read_outcome(tree, rows, pool)
        files, text = _summarise(tree, outcome)
        # A concatenation of gzip files is a gzip file.
        files["clips.csv.gz"] = b"".join(part.result() for part in packed)
    return files, text


def _summarise(tree: Tree, outcome: Outcome) -> tuple[dict[str, str | bytes], str]:
    if tree.reading.location is not None and not outcome.usable.any():
        counts = [f"{name} {np.count_nonzero(clips)}" for name, clips in outcome.fates.items() if clips.any()]
        raise ValueError(
            f"{tree.reading.location}: no usable sound for any of {plural(len(outcome.usable), 'clip')} "
            f"({', '.join(counts)}). Give the folder that holds these clips."
        )
    trained = _training_clips(tree, outcome)
    files: dict[str, str | bytes] = {
        "reconciliation.csv": reconciliation_csv(tree, outcome),
        "classes.csv": classes_csv(tree, outcome, trained),
    }
    if tree.reading.location is not None:
        files["missing_ids.csv"] = missing_csv(tree, outcome)
    lines = [describe(tree, outcome)]
    if tree.target:
        record = target_record(tree)
        files["target.json"] = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        lines.append(describe_target(record))
    return files, "\n".join(lines)


def _read_outcome(tree: Tree, rows: RowReader, pool: ThreadPoolExecutor) -> tuple[Outcome, list[Future]]:
    """Read what became of the clips in one pass over the finished shards.

    Also return the parts of clips.csv.gz, which `pool` compresses.
    """
    order = np.concatenate([np.flatnonzero(~tree.in_eval), np.flatnonzero(tree.in_eval)])  # order of the shards
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
        # `begin` is already past this shard, so only the first shard writes the header.
        pa.csv.write_csv(_safe(table), lines, pa.csv.WriteOptions(include_header=begin == len(shard)))
        if len(packed) >= MAX_WAITING:
            packed[-MAX_WAITING].result()  # reading is faster than compressing: wait, to bound the memory
        # mtime=0 keeps the file the same from run to run.
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
    """Return the rows of clips.csv of one shard."""
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
    """Count clips, files, usable files and each fate: one line per split, subset and part, and one for all clips."""
    subset = tree.table["subset"].combine_chunks().dictionary_encode()
    part = tree.table["part"].fill_null(-1).to_numpy().astype(np.int64)
    names = subset.dictionary.to_pylist()
    # One number for split, subset and part: parts are -1 to 40, which leaves room below 1,000.
    keys = (tree.in_eval * len(names) + subset.indices.to_numpy()) * 1000 + part + 1
    lines = [["split", "subset", "part", "clips", "found", "usable", *FATES]]
    for key in np.unique(keys):
        clips = keys == key
        split, name = divmod(int(key) // 1000, len(names))
        group = ["eval" if split else "train", names[name], key % 1000 - 1 if key % 1000 else ""]
        lines.append([*group, *_counts(tree, outcome, clips)])
    lines.append(["all", "", "", *_counts(tree, outcome, np.ones(len(keys), bool))])
    return csv_text(lines)


def _counts(tree: Tree, outcome: Outcome, clips: np.ndarray) -> list:
    if tree.reading.location is None:
        return [np.count_nonzero(clips), *[""] * (2 + len(FATES))]
    found = clips & ~outcome.fates["missing"]
    counts = [np.count_nonzero(clips & fate) for fate in outcome.fates.values()]
    return [np.count_nonzero(clips), np.count_nonzero(found), np.count_nonzero(clips & outcome.usable), *counts]


def classes_csv(tree: Tree, outcome: Outcome, trained: pa.Table) -> str:
    """Count clips per label, one line each: losses by split, strong events, clips left by head trimming, weights."""
    count = len(tree.labels.mids)
    splits = {"train": ~tree.in_eval, "eval": tree.in_eval}
    columns: dict[str, list] = {}
    for split, clips in splits.items():
        clips_of = class_counts(tree.table, count, clips)
        columns[f"{split}_clips"] = clips_of.tolist()
        if tree.reading.location is not None:
            usable = class_counts(tree.table, count, clips & outcome.usable)
            columns[f"{split}_usable"] = usable.tolist()
            loss = 1 - usable / np.maximum(clips_of, 1)
            columns[f"{split}_loss"] = [f"{x:.4f}" if n else "" for x, n in zip(loss, clips_of, strict=True)]
    events = tree.table["events"].combine_chunks().flatten()
    present = events.field("label").filter(events.field("present")).to_numpy()
    columns["events"] = np.bincount(present, minlength=count).tolist()
    heads = [code for code, mid in enumerate(tree.labels.mids) if mid in HEADS]
    table = pa.table({"ytid": trained["clip_id"], "labels": trained["labels"]})
    of_unbalanced = pc.equal(trained["subset"], SUBSETS[0]).to_numpy()
    for mode in TRIMS:
        # Training trims only the unbalanced subset.
        keep = trim_heads(table, heads, KEEP_FRACTION, mode, TRIM_SEED, count, FLOOR) | ~of_unbalanced
        columns[f"{mode}_clips"] = class_counts(table, count, keep).tolist()
    counts = class_counts(table, count)
    for scheme in WEIGHTS:
        weights = label_weights(counts, scheme)
        columns[f"{scheme}_weight"] = [f"{x:.6g}" if n else "" for x, n in zip(weights, counts, strict=True)]
    rows = zip(tree.labels.mids, tree.labels.names, *columns.values(), strict=True)
    return csv_text([("mid", "name", *columns), *rows])


def _training_clips(tree: Tree, outcome: Outcome) -> pa.Table:
    """Return the train split's clips that have a sound, or all of them if there is no folder of sounds."""
    clips = ~tree.in_eval if tree.reading.location is None else ~tree.in_eval & outcome.usable
    return tree.table.select(["clip_id", "subset", "labels"]).filter(pa.array(clips))


def missing_csv(tree: Tree, outcome: Outcome) -> bytes:
    """List the clips without a usable sound, the reason, and a link to the excerpt on YouTube."""
    clips = np.flatnonzero(~outcome.usable)
    table = tree.table.select(["clip_id", "subset", "part", "start_seconds", "end_seconds"]).take(pa.array(clips))
    why = np.full(len(clips), "", dtype="<U13")  # the longest name has 13 characters
    for name in reversed(LOSSES):  # the first of LOSSES is written last and stays
        why[outcome.fates[name][clips]] = name
    begin, end = (part for part in LINK.split("{}")[:2])
    seconds = pc.fill_null(pc.cast(pc.floor(table["start_seconds"]), pa.int64()), 0).cast(pa.string())
    official = pc.equal(pc.binary_length(table["clip_id"]), 11)  # YouTube ids; the user's own files have no link
    link = pc.binary_join_element_wise(begin, table["clip_id"], end, seconds, "s", "")
    table = table.append_column("why", pa.array(why)).append_column("link", pc.if_else(official, link, ""))
    file = io.BytesIO()
    pa.csv.write_csv(_safe(table), file)
    return file.getvalue()


def _safe(table: pa.Table) -> pa.Table:
    """Put a `'` before text that a spreadsheet would run as a formula, as `safe_cell` does, but on whole columns."""
    pattern = f"^([{re.escape(''.join(FORMULA_STARTS))}])"
    for number, name in enumerate(table.column_names):
        if pa.types.is_string(table[name].type):
            safe = pc.replace_substring_regex(table[name], pattern=pattern, replacement=r"'\1")
            table = table.set_column(number, name, safe)
    return table


def describe(tree: Tree, outcome: Outcome) -> str:
    """Return one line per split: number of clips, and how many have a sound."""
    lines = []
    for split, clips in (("train", ~tree.in_eval), ("eval", tree.in_eval)):
        count, usable = np.count_nonzero(clips), np.count_nonzero(clips & outcome.usable)
        line = f"{split}: {plural(count, 'clip')}"
        if tree.reading.location is None:
            line += ", no folder of sounds given"
        elif count:
            line += f", {usable:,} usable, {1 - usable / count:.1%} lost"
            lost = {name: np.count_nonzero(clips & ~outcome.usable & outcome.fates[name]) for name in LOSSES}
            line += "".join(f", {number:,} {name}" for name, number in lost.items() if number)
        lines.append(line)
    return "\n".join(lines)


def target_record(tree: Tree) -> dict:
    """Describe the target: its labels, labels near it, and how many clips each rule keeps out of its negatives."""
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
    # Each clip counts for the first rule that removes it, so the counts add up.
    for mids, what in ((target, "the target"), (sorted(related), "a related label")):
        for weak_tables, strong_tables, where in ((weak, [], "weak labels"), ([], strong, "strong labels only")):
            matches = clips_with(mids, weak_tables, strong_tables) - removed
            rules.append({"rule": f"has {what} by {where}", "clips": len(matches)})
            removed |= matches
    codes, edges = label_lists(weak[0][0])
    clips = np.repeat(np.arange(len(tree.table)), np.diff(edges))
    with_target = np.isin(clips, clips[np.isin(codes, [labels.mids.index(mid) for mid in target])])
    together = Counter({labels.mids[code]: int(n) for code, n in enumerate(np.bincount(codes[with_target])) if n})
    everywhere = np.bincount(codes, minlength=len(labels.mids))

    def entries(mids: list[str]) -> list[dict]:
        numbers = [int(everywhere[labels.mids.index(mid)]) if mid in labels.mids else 0 for mid in mids]
        return [
            {"mid": mid, "name": names.get(mid, mid), "clips": count, "with_target": together[mid]}
            for mid, count in zip(mids, numbers, strict=True)
        ]

    common = [mid for mid, _ in together.most_common() if mid not in {*target, *related}]
    return {
        "target": entries(target),
        "related": entries(sorted(related, key=lambda mid: (-together[mid], mid))),
        "siblings": entries(sorted(siblings - set(target) - related, key=lambda mid: (-together[mid], mid))),
        "heard_together": entries(common[:MAX_HEARD_TOGETHER]),
        "rules": rules,
        "negatives": len(tree.table) - len(removed),
    }


def describe_target(record: dict) -> str:
    """Return the lines that `prepare` prints about the target."""
    lines = [
        "target: "
        + "; ".join(f"{one['name']} ({one['mid']}), {plural(one['clips'], 'clip')}" for one in record["target"])
    ]
    for key, what in (
        ("related", "related labels, never in negatives"),
        ("siblings", "sibling labels, good negatives"),
        ("heard_together", "labels often in the same clip"),
    ):
        labels = ", ".join(f"{one['name']} ({one['with_target']:,} of {one['clips']:,})" for one in record[key])
        lines.append(f"{what}: {labels or 'none'}")
    lines += [f"{plural(rule['clips'], 'clip'):>15}: {rule['rule']}" for rule in record["rules"]]
    lines.append(f"{plural(record['negatives'], 'clip'):>15}: left as negatives")
    return "\n".join(lines)
