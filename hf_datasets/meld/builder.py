"""MELD as a builder: a raw tree (see raw.py) in, one row an utterance out. Licence and columns: see README.md.

It works alone, `MeldBuilder(raw_dir="/data/MELD.Raw").download_and_prepare()`, and for `hf_datasets.prepare`.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Features, Value, Video
from datasets.builder import Key

from media.video import VideoError, probe_clip
from system.text import csv_text, plural

from ..base_builder import DEFECTS_COLUMN, Builder, RawConfig
from ..defects import UTTERANCE_DEFECTS, located, make_defect
from ..raw_files import RawFolder
from ..shards import RowReader
from .raw import RawTree, read_tree
from .utterances import EMOTIONS, LONGEST, SENTIMENTS, Utterance

SPLIT_NAMES = {"train": "train", "dev": "validation", "test": "test"}  # MELD's and ours
SHORTEST_SOUND = 0.3  # s: below it there is no word; eight real clips have some 0.1 s
TOO_MUCH, TOO_FAR = 3.0, 10.0  # a clip longer than so many times its row's seconds and by so many s is cut wrongly
MANY_CHANNELS = 2  # more than stereo
ROWS_A_TABLE = 16
FEATURES = Features(
    {
        "utterance_id": Value("string"),
        "split": Value("string"),
        "dialogue": Value("string"),
        "dialogue_id": Value("int32"),
        "utterance_number": Value("int32"),
        "turn": Value("int32"),
        "text": Value("string"),
        "speaker": Value("string"),
        "emotion": ClassLabel(names=list(EMOTIONS)),
        "sentiment": ClassLabel(names=list(SENTIMENTS)),
        "season": Value("int32"),
        "episode": Value("int32"),
        "start_seconds": Value("float64"),
        "end_seconds": Value("float64"),
        "clip": Video(decode=False),  # opened by media.video, which needs no torchcodec
        "clip_seconds": Value("float64"),
        "has_text": Value("bool"),
        "has_audio": Value("bool"),
        "has_video": Value("bool"),
        "defects": DEFECTS_COLUMN,
        "synthetic": Value("bool"),
    }
)
SCHEMA = FEATURES.arrow_schema


@dataclass
class MeldConfig(RawConfig):
    """`raw_dir` is the folder or s3:// URL that MELD.Raw was unpacked to; `embed_clips` puts clips into the rows."""

    embed_clips: bool = False


class MeldBuilder(Builder):
    """One row per utterance, whether its clip is there or not: text, labels, the clip, and what of it can be used.

    The `hash` covers this version, the columns, the tables, and path and size (embedded: content) of every clip.
    """

    BUILDER_CONFIG_CLASS = MeldConfig
    DESCRIPTION = "MELD: utterances of a TV series with text, sound and pictures, their emotion and sentiment."
    HOMEPAGE = "https://affective-meld.github.io"
    LICENSE = "repository under GPL-3.0; text and clips are of a TV series, not redistributable"
    RAW_DIR = "the folder that MELD.Raw was unpacked to"
    features = FEATURES
    SHARD_INPUTS = 256  # utterances a Parquet file: 54 of the real data, each some 200 MB where clips are embedded
    ROW = "utterance_id"  # in defects.csv
    DEFECTS = UTTERANCE_DEFECTS
    REDISTRIBUTION = "text and clips are those of a TV series, whose rights MELD's licence cannot give"

    def __init__(
        self, raw_dir: str | Path | None = None, embed_clips: bool = False, hash: str | None = None, **kwargs
    ) -> None:
        super().__init__(raw_dir, hash, {"embed_clips": embed_clips}, **kwargs)
        self.ROWS_PER_GROUP = ROWS_A_TABLE if embed_clips else self.SHARD_INPUTS

    def read_raw(self, raw_dir: str | Path, embed_clips: bool) -> RawTree:
        return read_tree(raw_dir, embed_clips)

    def _split_generators(self, dl_manager: datasets.DownloadManager | None) -> list[datasets.SplitGenerator]:
        shared = {"root": self.tree.root, "embed": self.config.embed_clips, "synthetic": self.tree.synthetic}
        return [
            datasets.SplitGenerator(SPLIT_NAMES[split], gen_kwargs=shared | {"utterances": rows})
            for split, rows in self.tree.utterances.items()
            if rows
        ]

    @staticmethod  # so that `prepare` can send it to its workers without the builder
    def _generate_tables(
        utterances: list[Utterance], root: RawFolder, embed: bool, synthetic: bool
    ) -> Iterator[tuple[Key, pa.Table]]:
        fetched = root.ahead(utterances, lambda utterance: (utterance.clip,))
        rows = (read_row(utterance, root, embed) | {"synthetic": synthetic} for utterance in fetched)
        for i in range(0, len(utterances), ROWS_A_TABLE):
            yield Key(0, i), pa.Table.from_pylist(list(itertools.islice(rows, ROWS_A_TABLE)), schema=SCHEMA)

    def lists(self, rows: RowReader) -> tuple[dict[str, str | bytes], str]:
        """orphan_clips.csv, the clips that no row has; and how many rows have text, sound and pictures."""
        return {"orphan_clips.csv": csv_text([("split", "file", "why"), *self.tree.orphans])}, describe(rows)


def read_row(utterance: Utterance, root: RawFolder, embed: bool) -> dict:
    """One row (without `synthetic`), with every defect of its table's line and its clip."""
    defects = list(utterance.defects)
    return {
        "utterance_id": f"{utterance.dialogue}_utt{utterance.number}",
        "split": utterance.split,
        "dialogue": utterance.dialogue,
        "dialogue_id": utterance.dialogue_id,
        "utterance_number": utterance.number,
        "turn": utterance.turn,
        "text": utterance.text,
        "speaker": utterance.speaker,
        "emotion": EMOTIONS.index(utterance.emotion),
        "sentiment": SENTIMENTS.index(utterance.sentiment),
        "season": utterance.season,
        "episode": utterance.episode,
        "start_seconds": utterance.start_seconds,
        "end_seconds": utterance.end_seconds,
        "has_text": bool(utterance.text),
        **_read_clip(utterance, root, embed, defects),
        "defects": defects,
    }


def _read_clip(utterance: Utterance, root: RawFolder, embed: bool, defects: list[dict]) -> dict:
    """The columns that the clip's header tells: what of it can be used, by the rules of the card."""
    name = utterance.clip
    if name is None:
        if utterance.looked_for:
            defects.append(make_defect("video_missing"))
        return {"clip": None, "clip_seconds": None, "has_audio": False, "has_video": False}
    clip = {"bytes": None, "path": name.rsplit("/", 1)[-1] if embed else root.where(name)}
    size = None
    try:
        data = root.read(name) if embed or root.files[name] is not None else None
        clip["bytes"] = data if embed else None
        size = Path(root.where(name)).stat().st_size if data is None else len(data)
        facts = probe_clip(root.where(name) if data is None else data, name=name)
    except (VideoError, OSError) as error:
        defects.append(make_defect("video_unreadable", size, detail=located(name, error)))
        return {"clip": clip, "clip_seconds": None, "has_audio": False, "has_video": False}
    has_audio, has_video = facts.audio_seconds is not None, facts.video_seconds is not None
    seconds = max((s for s in (facts.audio_seconds, facts.video_seconds) if s is not None), default=None)
    if not has_audio:
        defects.append(make_defect("no_sound_track"))
    if not has_video:
        defects.append(make_defect("no_pictures"))
    if facts.channels is not None and facts.channels > MANY_CHANNELS:
        defects.append(make_defect("many_channels", facts.channels))
    if seconds is not None and is_too_long(seconds, utterance.seconds):
        defects.append(make_defect("cut_too_long", seconds, detail=_by_row(utterance.seconds)))
        has_audio = has_video = False
    if facts.audio_seconds is not None and facts.audio_seconds < SHORTEST_SOUND:
        defects.append(make_defect("cut_too_short", facts.audio_seconds, detail=_by_row(utterance.seconds)))
        has_audio = False
    return {"clip": clip, "clip_seconds": seconds, "has_audio": has_audio, "has_video": has_video}


def is_too_long(clip_seconds: float, row_seconds: float | None) -> bool:
    """Whether a clip holds far more than its utterance, which by its row has `row_seconds` (None: not known).

    The three real ones that are known have 41 to 305 s, which their rows say too.
    """
    if clip_seconds > LONGEST or row_seconds is None:
        return clip_seconds > LONGEST
    return clip_seconds > TOO_MUCH * row_seconds and clip_seconds - row_seconds > TOO_FAR


def _by_row(seconds: float | None) -> str:
    return "its row does not say how long it lasts" if seconds is None else f"{seconds:.3f} s by its row"


def describe(rows: RowReader) -> str:
    """One line a split, and one for all: utterances, and how many have text, sound and pictures that can be used."""
    names = ("has_text", "has_audio", "has_video")
    counts: dict[str, list[int]] = {}
    for split, table in rows([*names]):
        some = counts.setdefault(split, [0] * 4)
        for place, count in enumerate([len(table), *(pc.sum(table[name]).as_py() or 0 for name in names)]):
            some[place] += count
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    return "\n".join(
        f"{split}: {plural(total, 'utterance')}; usable: text {text:,}, sound {sound:,}, pictures {pictures:,}"
        for split, (total, text, sound, pictures) in counts.items()
    )
