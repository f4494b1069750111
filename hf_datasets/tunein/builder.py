"""Build TuneIn, one row per creative, from its raw tree (see raw.py). README.md has the licence and the columns.

The builder also works without `hf_datasets.prepare`: `TuneinBuilder(raw_dir="/data/tunein").download_and_prepare()`.
SHARD_INPUTS batches of sounds become one Parquet file. One row group of sounds and the batch after it are in memory.
Vectors of text and video are read one file at a time and then memory-mapped from the local disk.
"""

import csv
import io
import shlex
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, List, Value
from datasets.builder import Key

from system.text import plural, safe_row

from ..base_builder import DEFECTS_COLUMN, Builder
from ..defects import CREATIVE_DEFECTS, make_defect
from ..raw_files import AHEAD, RawFolder
from ..shards import RowReader, one_ahead
from .raw import (
    MODALITIES,
    SOUNDS,
    VECTORS,
    Batch,
    Drop,
    RawTree,
    SoundFile,
    VectorFile,
    read_tree,
)

FEATURES = Features(
    {
        "creative_id": Value("string"),
        "batch": Value("int32"),
        "target": Value("float32"),
        "has_text": Value("bool"),
        "has_video": Value("bool"),
        "has_audio": Value("bool"),
        "has_back_audio": Value("bool"),
        "defects": DEFECTS_COLUMN,
        "synthetic": Value("bool"),
        "audio_frames": Value("int32"),
        "back_audio_frames": Value("int32"),
        # Large columns come last: `lists` reads the small ones, which are then adjacent in the file and need one
        # request per file on S3.
        "text": List(Value("float32")),
        "video": List(Value("float32")),
        # (frames * width,), one frame after the other: a flat list is read without a copy, a list of lists is not.
        # `numbers.reshape(audio_frames, -1)` restores the frames.
        "audio": List(Value("float32")),
        "back_audio": List(Value("float32")),
    }
)
SCHEMA = FEATURES.arrow_schema
# Kinds of defects that explain why a creative lacks a modality; their detail begins with the modality.
REASONS = CREATIVE_DEFECTS[: CREATIVE_DEFECTS.index("duplicate_id") + 1]


class TuneinBuilder(Builder):
    """One row per creative in labels.csv, with the embeddings that it has, its target and its defects."""

    DESCRIPTION = (
        "TuneIn: embeddings of creatives' text, pictures and sounds, and the attention that viewers gave them."
    )
    LICENSE = "none stated; the embeddings are not redistributable"
    RAW_DIR = "the folder of labels.csv and the embeddings"
    features = FEATURES
    SHARD_INPUTS = 8  # batches of sounds per Parquet file, about 550 creatives of the real data
    ROWS_PER_GROUP = 256
    ROW = "creative_id"
    DEFECTS = CREATIVE_DEFECTS
    REDISTRIBUTION = "no licence of the data is known"

    def read_raw(self, raw_dir: str | Path) -> RawTree:
        return read_tree(raw_dir)

    def _split_generators(self, dl_manager: datasets.DownloadManager | None) -> list[datasets.SplitGenerator]:
        tree = self.tree
        inputs = {"batches": tree.batches, "root": tree.root, "vectors": tree.vectors}
        inputs |= {"widths": tree.widths, "synthetic": tree.synthetic}
        inputs["order"] = tuple(batch.file for batch in tree.batches if batch.file)
        return [datasets.SplitGenerator("train", gen_kwargs=inputs)]

    @staticmethod
    def _generate_tables(
        batches: list[Batch],
        root: RawFolder,
        vectors: dict[str, VectorFile],
        widths: dict[str, int],
        synthetic: bool,
        order: tuple[str, ...],
    ) -> Iterator[tuple[Key, pa.Table]]:
        def read(batch: Batch) -> SoundFile | None:
            if batch.file is None:
                return None
            position = order.index(batch.file)
            # `order` has the files of all shards, so that the next shard's first files are prefetched too.
            root.fetch(order[position : position + AHEAD + 1])
            return SoundFile.read(root, batch.file)

        for i, sounds in enumerate(one_ahead(map(read, batches))):
            yield Key(0, i), make_rows(batches[i], sounds, vectors, widths, synthetic)

    def lists(self, rows: RowReader) -> tuple[dict[str, str | bytes], str]:
        """Return missed_embeddings.csv, one line per embedding that no row has, and the counts of each modality."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "modality", "reason", "batch"])
        names = [f"has_{kind}" for kind in MODALITIES]
        counts = dict.fromkeys([*MODALITIES, "all four", "a target"], 0)
        total = 0
        for _, table in rows(["creative_id", "batch", "target", *names, "defects"]):
            writer.writerows(map(safe_row, _missing_embeddings(table)))
            has = np.stack([table[name].to_numpy() for name in names])  # (modalities, rows)
            table_counts = [*has.sum(1), has.all(0).sum(), len(table) - table["target"].null_count]
            counts = {kind: counts[kind] + int(count) for kind, count in zip(counts, table_counts, strict=True)}
            total += len(table)
        writer.writerows(map(safe_row, self.tree.dropped))
        summary = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
        return {"missed_embeddings.csv": text.getvalue()}, f"{plural(total, 'creative')}; with {summary}"


def make_rows(
    batch: Batch, file: SoundFile | None, vectors: dict[str, VectorFile], widths: dict[str, int], synthetic: bool
) -> pa.Table:
    """Return the rows of a batch, with the sounds of `file` (None if there is no file)."""
    defects = [list(of_creative) for of_creative in batch.defects]
    sounds = _find_sounds(batch, file, widths, defects)
    count = len(batch.ids)
    columns: dict[str, pa.Array] = {
        "creative_id": pa.array(batch.ids, pa.string()),
        "batch": pa.array([batch.number] * count, pa.int32()),
        "target": pa.array(batch.targets, pa.float32()),
        "synthetic": pa.array([synthetic] * count),
    }
    for kind in VECTORS:
        rows = vectors[kind].take(batch.starts[kind])
        columns |= {kind: _list_array(rows), f"has_{kind}": pa.array([row is not None for row in rows])}
    for kind, sound_frames in sounds.items():
        columns[kind] = _list_array([None if frames is None else frames.ravel() for frames in sound_frames])
        columns[f"{kind}_frames"] = pa.array(
            [0 if frames is None else len(frames) for frames in sound_frames], pa.int32()
        )
        columns[f"has_{kind}"] = pa.array([frames is not None for frames in sound_frames])
    columns["defects"] = pa.array(defects, SCHEMA.field("defects").type)
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _find_sounds(
    batch: Batch, file: SoundFile | None, widths: dict[str, int], defects: list[list[dict]]
) -> dict[str, list[np.ndarray | None]]:
    """Return the frames (frames, width) of each creative by modality, None if missing, and add defects for those."""
    frames: dict[str, list[np.ndarray | None]] = {kind: [None] * len(batch.ids) for kind in SOUNDS}
    what, size, detail = "not_in_index" if batch.number is None else "batch_missing", None, ""
    positions: dict[str, int] = {}
    if file is not None and file.why:
        what, size, detail = "batch_unreadable", file.size, f": {file.why}"
    elif file is not None:
        what = "not_in_batch"
        positions = _first_positions(file.ids, batch, defects)
    for row, name in enumerate(batch.ids):
        position = positions.get(name)
        if file is None or position is None:
            defects[row] += [make_defect(what, size, detail=kind + detail) for kind in SOUNDS]
            continue
        for kind in SOUNDS:
            entry = file.entries[kind][position]
            if entry.what:
                defects[row].append(make_defect(entry.what, entry.how_much, detail=kind))
            elif entry.width != widths[kind]:
                defects[row].append(make_defect("other_width", entry.width, detail=kind))
            else:
                frames[kind][row] = entry.numbers(file.numbers[kind]).reshape(entry.frames, entry.width)
    return frames


def _first_positions(ids: list[str], batch: Batch, defects: list[list[dict]]) -> dict[str, int]:
    """Return the first position of each id in the file's lists, and add defects for repeated and unlisted ids."""
    positions: dict[str, int] = {}
    rows = {name: row for row, name in enumerate(batch.ids)}
    repeats: dict[str, int] = {}
    for position, name in enumerate(ids):
        if name in positions:
            repeats[name] = repeats.get(name, 0) + 1
        positions.setdefault(name, position)
    for name, count in repeats.items():
        if name in rows:
            defects[rows[name]] += [make_defect("duplicate_id", count, detail=kind) for kind in SOUNDS]
    strangers = [name for name in positions if name not in batch.listed]
    if strangers:
        defects[0].append(make_defect("strangers_in_batch", len(strangers), detail=shlex.join(strangers)))
    # By the index, strangers belong to another batch. A creative in both would get two sounds.
    return {name: position for name, position in positions.items() if name in batch.listed}


def _list_array(rows: list[np.ndarray | None]) -> pa.ListArray:
    """Return one list per row, null for None."""
    # `pa.array(rows)` would make a Python object of each number.
    lengths = [0 if row is None else len(row) for row in rows]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    parts = [row for row in rows if row is not None]
    values = pa.array(np.concatenate(parts) if parts else np.empty(0, np.float32), pa.float32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array([row is None for row in rows]))


def _missing_embeddings(table: pa.Table) -> Iterator[Drop]:
    table = table.filter(pc.greater(pc.list_value_length(table["defects"]), 0))
    for row in table.select(["creative_id", "batch", "defects"]).to_pylist():
        for defect in row["defects"]:
            what, detail = defect["what"], defect["detail"]
            if what == "strangers_in_batch":
                yield from ((name, kind, what, row["batch"]) for name in shlex.split(detail) for kind in SOUNDS)
            elif what == "target_missing":
                yield row["creative_id"], "target", what, None
            elif what in REASONS:
                kind = detail.partition(":")[0]
                yield row["creative_id"], kind, what, row["batch"] if kind in SOUNDS else None
