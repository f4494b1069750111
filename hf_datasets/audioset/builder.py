"""Build AudioSet from its tables and a folder of sounds, one row per clip. README.md describes the columns.

Use it alone, `AudiosetBuilder(raw_dir=..., audio_root=...).download_and_prepare()`, or through `hf_datasets.prepare`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import Audio, ClassLabel, Features, List, Value
from datasets.builder import Key

from media.audioset import Labels, Ontology

from ..base_builder import DEFECTS_COLUMN, Builder, RawConfig
from ..defects import CLIP_DEFECTS
from ..shards import RowReader
from .reports import summarise
from .rows import CHECKS, Reading, read_clips
from .tree import Tree, read_tree

ROWS_PER_TABLE = 10_000  # rows per Arrow table; a shard is a few of these tables
ROWS_WITH_SOUND = 20  # rows per table when the sounds are embedded: about 0.3 MB each


@dataclass
class AudiosetConfig(RawConfig):
    """`raw_dir` holds the tables, `audio_root` the sounds (folders or s3:// URLs); `*_paths` are the user's lists."""

    audio_root: str | None = None
    target: list[str] | None = None
    pos_strong_paths: list[str] | None = None
    neg_strong_paths: list[str] | None = None
    weak_paths: list[str] | None = None
    group_paths: list[str] | None = None
    check_audio: str = "headers"
    embed_audio: bool = False


class AudiosetBuilder(Builder):
    """Make one row per clip, with or without a sound file: labels, events, path of the sound, and defects.

    The `hash` covers this version, the columns, every table and list, and the path and size of every sound file.
    """

    BUILDER_CONFIG_CLASS = AudiosetConfig
    DESCRIPTION = "AudioSet: ten-second clips, the sounds that occur in them, and the path of each clip's audio."
    HOMEPAGE = "https://research.google.com/audioset"
    LICENSE = "labels CC BY 4.0, ontology CC BY-SA 4.0"
    RAW_DIR = "the folder that holds AudioSet's tables"
    SHARD_INPUTS = 5  # tables per Parquet file: 50,000 rows, like one part of the unbalanced table
    ROW = "clip_id"  # name of the id column in defects.csv
    DEFECTS = CLIP_DEFECTS
    REDISTRIBUTION = None  # labels and ontology may be shared, see LICENSE
    REDISTRIBUTION_OF_SOUNDS = "the sounds belong to those who published them on YouTube"

    def __init__(
        self,
        raw_dir: str | Path | None = None,
        audio_root: str | Path | None = None,
        target: list[str] | str | None = None,
        pos_strong_paths: list[str] | None = None,
        neg_strong_paths: list[str] | None = None,
        weak_paths: list[str] | None = None,
        group_paths: list[str] | None = None,
        check_audio: str = "headers",
        embed_audio: bool = False,
        hash: str | None = None,
        **kwargs,
    ) -> None:
        options = {
            "audio_root": None if audio_root is None else str(audio_root),
            "target": [target] if isinstance(target, str) else list(target or []),
            "pos_strong_paths": [str(path) for path in pos_strong_paths or []],
            "neg_strong_paths": [str(path) for path in neg_strong_paths or []],
            "weak_paths": [str(path) for path in weak_paths or []],
            "group_paths": [str(path) for path in group_paths or []],
            "check_audio": check_audio,
            "embed_audio": embed_audio,
        }
        super().__init__(raw_dir, hash, options, **kwargs)
        self.ROWS_PER_GROUP = ROWS_WITH_SOUND if embed_audio else ROWS_PER_TABLE

    def read_raw(
        self,
        raw_dir: str | Path,
        audio_root: str | None,
        target: list[str],
        check_audio: str,
        embed_audio: bool,
        **paths: list[str],
    ) -> Tree:
        if check_audio not in CHECKS:
            raise ValueError(f"check_audio={check_audio!r}: must be one of {', '.join(CHECKS)}.")
        lists = {kind.removesuffix("_paths"): own for kind, own in paths.items()}
        tree = read_tree(str(raw_dir), audio_root, target, lists, check_audio, embed_audio)
        # The vocabulary depends on the tables and lists, so the columns are only known after reading them.
        self.features = make_features(tree.labels.mids)
        return tree

    @property
    def hashed_sizes(self) -> list[int]:
        return [ROWS_PER_TABLE, ROWS_WITH_SOUND]

    @property
    def companions(self) -> dict[str, str]:
        """Return labels.json for `media.audioset`: the vocabulary in code order, then the ontology's other nodes."""
        return {"labels.json": labels_json(self.tree.labels, self.tree.ontology)}

    def lists(self, rows: RowReader) -> tuple[dict[str, str | bytes], str]:
        """Return the files that `prepare` writes next to the rows, and the summary it prints (see reports.py)."""
        return summarise(self.tree, rows)

    def _split_generators(self, dl_manager: datasets.DownloadManager | None) -> list[datasets.SplitGenerator]:
        rows = ROWS_WITH_SOUND if self.tree.reading.embed else ROWS_PER_TABLE
        shared = {"reading": self.tree.reading, "schema": self.features.arrow_schema}
        splits = {"train": np.flatnonzero(~self.tree.in_eval), "eval": np.flatnonzero(self.tree.in_eval)}
        return [
            datasets.SplitGenerator(split, gen_kwargs=shared | {"clips": self.tree.cut(clips, rows)})
            for split, clips in splits.items()
            if len(clips)
        ]

    @staticmethod  # `prepare` pickles it for its workers, without the builder and its tables
    def _generate_tables(clips: list[pa.Table], reading: Reading, schema: pa.Schema) -> Iterator[tuple[Key, pa.Table]]:
        for i, table in enumerate(clips):
            yield Key(0, i), read_clips(table, reading, schema)


def labels_json(labels: Labels, ontology: Ontology | None) -> str:
    """Return the JSON text that `media.audioset.ontology_from_labels` reads."""
    names = dict(zip(labels.mids, labels.names, strict=True))
    if ontology is not None:
        names |= {mid: name for mid, name in ontology.names.items() if mid not in names}
    parents = {} if ontology is None else ontology.parents
    entries = [{"mid": mid, "name": name, "parents": parents.get(mid, ())} for mid, name in names.items()]
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f'{{"num_labels": {len(labels.mids)}, "labels": [\n{lines}\n]}}\n'


def make_features(mids: tuple[str, ...]) -> Features:
    """Return the columns of a row whose labels are from this vocabulary."""
    label = ClassLabel(names=list(mids))
    return Features(
        {
            "clip_id": Value("string"),
            "subset": Value("string"),
            "part": Value("int16"),
            "start_seconds": Value("float64"),
            "end_seconds": Value("float64"),
            "labels": List(label),
            "events": List(
                {
                    "label": label,
                    "start_seconds": Value("float32"),
                    "end_seconds": Value("float32"),
                    "present": Value("bool"),
                }
            ),
            "strongly_labelled": Value("bool"),
            "audio": Audio(decode=False),  # decoded by media.audio, because `datasets` would need torchcodec
            "audio_seconds": Value("float32"),
            "defects": DEFECTS_COLUMN,
            "synthetic": Value("bool"),
            "group": Value("string"),
        }
    )
