"""TuneIn as a builder: a raw tree (see raw.py) in, one row a creative out. Licence and columns: see README.md.

It works alone, `TuneinBuilder(raw_dir="/data/tunein").download_and_prepare()`, and for `hf_datasets.prepare`.
A segment is SHARD_INPUTS batches of sounds and becomes one Parquet file. Of the sounds a group of rows is in memory,
and the batch after it; of the vectors of text and video one file at a time, and then they wait on the disk.
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
        # What is big comes last: what lists are made of lies together, and is one request a file on S3.
        "text": List(Value("float32")),
        "video": List(Value("float32")),
        # Frames one after the other, (frames x width) numbers: one list a row is read without a copy, a list of lists
        # is not. `numbers.reshape(audio_frames, -1)` has them apart.
        "audio": List(Value("float32")),
        "back_audio": List(Value("float32")),
    }
)
SCHEMA = FEATURES.arrow_schema
# Why a modality of a creative is not there; the detail of these begins with its name.
REASONS = CREATIVE_DEFECTS[: CREATIVE_DEFECTS.index("duplicate_id") + 1]


class TuneinBuilder(Builder):
    """One row per creative in labels.csv, whatever it has: its embeddings, its target, and what is missing."""

    DESCRIPTION = "TuneIn: embeddings of creatives' text, pictures and sounds, and the attention that they got."
    LICENSE = "none stated; the embeddings are not redistributable"
    RAW_DIR = "the folder of labels.csv and the embeddings"
    features = FEATURES
    SHARD_INPUTS = 8  # batches of sounds a Parquet file, a segment: some 550 creatives of the real data
    ROWS_PER_GROUP = 256
    ROW = "creative_id"  # in defects.csv
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

    @staticmethod  # so that `prepare` can send it to its workers without the builder
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
            place = order.index(batch.file)
            root.fetch(order[place : place + AHEAD + 1])  # the files of the next segment, too
            return SoundFile.read(root, batch.file)

        for i, sounds in enumerate(one_ahead(map(read, batches))):
            yield Key(0, i), make_rows(batches[i], sounds, vectors, widths, synthetic)

    def lists(self, rows: RowReader) -> tuple[dict[str, str | bytes], str]:
        """missed_embeddings.csv, a line for each embedding that no row has; and how many rows have which."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "modality", "reason", "batch"])
        names = [f"has_{kind}" for kind in MODALITIES]
        counts = dict.fromkeys([*MODALITIES, "all four", "a target"], 0)
        total = 0
        for _, table in rows(["creative_id", "batch", "target", *names, "defects"]):
            writer.writerows(map(safe_row, _missed(table)))
            has = np.stack([table[name].to_numpy() for name in names])
            found = [*has.sum(1), has.all(0).sum(), len(table) - table["target"].null_count]
            counts = {kind: counts[kind] + int(count) for kind, count in zip(counts, found, strict=True)}
            total += len(table)
        writer.writerows(map(safe_row, self.tree.dropped))
        said = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
        return {"missed_embeddings.csv": text.getvalue()}, f"{plural(total, 'creative')}; with {said}"


def make_rows(
    batch: Batch, file: SoundFile | None, vectors: dict[str, VectorFile], widths: dict[str, int], synthetic: bool
) -> pa.Table:
    """The rows of the creatives whose sounds are in one file."""
    defects = [list(found) for found in batch.defects]
    sounds = _find_sounds(batch, file, widths, defects)
    count = len(batch.ids)
    columns: dict[str, pa.Array] = {
        "creative_id": pa.array(batch.ids, pa.string()),
        "batch": pa.array([batch.number] * count, pa.int32()),
        "target": pa.array(batch.targets, pa.float32()),
        "synthetic": pa.array([synthetic] * count),
    }
    for kind in VECTORS:
        rows = vectors[kind].take(batch.places[kind])
        columns |= {kind: _lists(rows), f"has_{kind}": pa.array([row is not None for row in rows])}
    for kind, found in sounds.items():
        columns[kind] = _lists([None if frames is None else frames.ravel() for frames in found])
        columns[f"{kind}_frames"] = pa.array([0 if frames is None else len(frames) for frames in found], pa.int32())
        columns[f"has_{kind}"] = pa.array([frames is not None for frames in found])
    columns["defects"] = pa.array(defects, SCHEMA.field("defects").type)
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _find_sounds(
    batch: Batch, file: SoundFile | None, widths: dict[str, int], defects: list[list[dict]]
) -> dict[str, list[np.ndarray | None]]:
    """The frames of each creative by modality, None where there are none; every reason goes to its `defects`."""
    found: dict[str, list[np.ndarray | None]] = {kind: [None] * len(batch.ids) for kind in SOUNDS}
    what, size, detail = "not_in_index" if batch.number is None else "batch_missing", None, ""
    places: dict[str, int] = {}
    if file is not None and file.why:
        what, size, detail = "batch_unreadable", file.size, f": {file.why}"
    elif file is not None:
        what = "not_in_batch"
        places = _places(file.ids, batch, defects)
    for row, name in enumerate(batch.ids):
        place = places.get(name)
        if file is None or place is None:
            defects[row] += [make_defect(what, size, detail=kind + detail) for kind in SOUNDS]
            continue
        for kind in SOUNDS:
            entry = file.entries[kind][place]
            if entry.what:
                defects[row].append(make_defect(entry.what, entry.how_much, detail=kind))
            elif entry.width != widths[kind]:
                defects[row].append(make_defect("other_width", entry.width, detail=kind))
            else:
                found[kind][row] = entry.numbers(file.numbers[kind]).reshape(entry.frames, entry.width)
    return found


def _places(ids: list[str], batch: Batch, defects: list[list[dict]]) -> dict[str, int]:
    """Where each id stands in the lists of its batch, the first time."""
    places: dict[str, int] = {}
    rows = {name: row for row, name in enumerate(batch.ids)}
    again: dict[str, int] = {}
    for place, name in enumerate(ids):
        if name in places:
            again[name] = again.get(name, 0) + 1
        places.setdefault(name, place)
    for name, count in again.items():
        if name in rows:
            defects[rows[name]] += [make_defect("duplicate_id", count, detail=kind) for kind in SOUNDS]
    strangers = [name for name in places if name not in batch.listed]
    if strangers:
        defects[0].append(make_defect("strangers_in_batch", len(strangers), detail=shlex.join(strangers)))
    # of another batch by the index: it would have two sounds
    return {name: place for name, place in places.items() if name in batch.listed}


def _lists(rows: list[np.ndarray | None]) -> pa.ListArray:
    """A list a row, null where there is None, without a Python number being made."""
    lengths = [0 if row is None else len(row) for row in rows]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    parts = [row for row in rows if row is not None]
    values = pa.array(np.concatenate(parts) if parts else np.empty(0, np.float32), pa.float32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array([row is None for row in rows]))


def _missed(table: pa.Table) -> Iterator[Drop]:
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
