"""Build MELD from its raw tree (see raw.py), one row per utterance. README.md describes licence and columns.

Use it alone, `MeldBuilder(raw_dir="/data/MELD.Raw").download_and_prepare()`, or through `hf_datasets.prepare`.
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
from .utterances import EMOTIONS, MAX_SECONDS, SENTIMENTS, Utterance

SPLIT_NAMES = {"train": "train", "dev": "validation", "test": "test"}  # MELD's name: the name in `datasets`
MIN_SOUND_SECONDS = 0.3  # too short for a word; eight real clips have about 0.1 s
# A clip is cut wrongly if it is both MAX_RATIO times as long as its row says and MAX_EXCESS seconds longer.
MAX_RATIO, MAX_EXCESS = 3.0, 10.0
MAX_CHANNELS = 2  # stereo
ROWS_PER_TABLE = 16  # small: embedded clips are held in memory
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
        "clip": Video(decode=False),  # decoded by media.video, because `datasets` would need torchcodec
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
    """`raw_dir` is the folder or s3:// URL of the unpacked MELD.Raw; `embed_clips` puts clips into the rows."""

    embed_clips: bool = False


class MeldBuilder(Builder):
    """Make one row per utterance, with or without a clip: text, labels, the clip, and which parts are usable.

    The `hash` covers this version, the columns, the tables, and path and size (if embedded: content) of every clip.
    """

    BUILDER_CONFIG_CLASS = MeldConfig
    DESCRIPTION = "MELD: utterances from a TV series with text, audio and video, and their emotion and sentiment."
    HOMEPAGE = "https://affective-meld.github.io"
    LICENSE = "repository under GPL-3.0; text and clips belong to a TV series and are not redistributable"
    RAW_DIR = "the folder of the unpacked MELD.Raw"
    features = FEATURES
    SHARD_INPUTS = (
        256  # utterances per Parquet file: 54 files for the real data, about 200 MB each with clips embedded
    )
    ROW = "utterance_id"  # name of the id column in defects.csv
    DEFECTS = UTTERANCE_DEFECTS
    REDISTRIBUTION = "text and clips belong to a TV series, and MELD's licence does not cover them"

    def __init__(
        self, raw_dir: str | Path | None = None, embed_clips: bool = False, hash: str | None = None, **kwargs
    ) -> None:
        super().__init__(raw_dir, hash, {"embed_clips": embed_clips}, **kwargs)
        self.ROWS_PER_GROUP = ROWS_PER_TABLE if embed_clips else self.SHARD_INPUTS

    def read_raw(self, raw_dir: str | Path, embed_clips: bool) -> RawTree:
        return read_tree(raw_dir, embed_clips)

    def _split_generators(self, dl_manager: datasets.DownloadManager | None) -> list[datasets.SplitGenerator]:
        shared = {"root": self.tree.root, "embed": self.config.embed_clips, "synthetic": self.tree.synthetic}
        return [
            datasets.SplitGenerator(SPLIT_NAMES[split], gen_kwargs=shared | {"utterances": rows})
            for split, rows in self.tree.utterances.items()
            if rows
        ]

    @staticmethod  # `prepare` pickles it for its workers, without the builder and its tree
    def _generate_tables(
        utterances: list[Utterance], root: RawFolder, embed: bool, synthetic: bool
    ) -> Iterator[tuple[Key, pa.Table]]:
        fetched = root.ahead(utterances, lambda utterance: (utterance.clip,))
        rows = (read_row(utterance, root, embed) | {"synthetic": synthetic} for utterance in fetched)
        for i in range(0, len(utterances), ROWS_PER_TABLE):
            yield Key(0, i), pa.Table.from_pylist(list(itertools.islice(rows, ROWS_PER_TABLE)), schema=SCHEMA)

    def lists(self, rows: RowReader) -> tuple[dict[str, str | bytes], str]:
        """Return orphan_clips.csv (clips without a row), and how many rows have text, audio and video."""
        return {"orphan_clips.csv": csv_text([("split", "file", "why"), *self.tree.orphans])}, describe(rows)


def read_row(utterance: Utterance, root: RawFolder, embed: bool) -> dict:
    """Return one row (without `synthetic`), with the defects of its line in the table and of its clip."""
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
    """Return the columns that depend on the clip's header, and add its defects to `defects`."""
    name = utterance.clip
    if name is None:
        if utterance.looked_for:  # otherwise one defect reports the whole split
            defects.append(make_defect("video_missing"))
        return {"clip": None, "clip_seconds": None, "has_audio": False, "has_video": False}
    clip = {"bytes": None, "path": name.rsplit("/", 1)[-1] if embed else root.where(name)}
    size = None
    try:
        # A local clip that is not embedded stays on disk: only its header is read.
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
    if facts.channels is not None and facts.channels > MAX_CHANNELS:
        defects.append(make_defect("many_channels", facts.channels))
    if seconds is not None and is_too_long(seconds, utterance.seconds):
        defects.append(make_defect("cut_too_long", seconds, detail=_row_length(utterance.seconds)))
        has_audio = has_video = False
    if facts.audio_seconds is not None and facts.audio_seconds < MIN_SOUND_SECONDS:
        defects.append(make_defect("cut_too_short", facts.audio_seconds, detail=_row_length(utterance.seconds)))
        has_audio = False
    return {"clip": clip, "clip_seconds": seconds, "has_audio": has_audio, "has_video": has_video}


def is_too_long(clip_seconds: float, row_seconds: float | None) -> bool:
    """Return whether a clip holds far more than its utterance.

    Args:
        clip_seconds: length of the clip.
        row_seconds: length of the utterance by its row; None if unknown.
    """
    # The row's length alone is not enough: three real clips are cut wrongly, and their rows repeat the wrong length
    # (41 to 305 s). Hence the fixed limit.
    if clip_seconds > MAX_SECONDS or row_seconds is None:
        return clip_seconds > MAX_SECONDS
    return clip_seconds > MAX_RATIO * row_seconds and clip_seconds - row_seconds > MAX_EXCESS


def _row_length(seconds: float | None) -> str:
    return "no length by its row" if seconds is None else f"{seconds:.3f} s by its row"


def describe(rows: RowReader) -> str:
    """Return one line per split and one for all: utterances, and how many have usable text, audio and video."""
    names = ("has_text", "has_audio", "has_video")
    counts: dict[str, list[int]] = {}
    for split, table in rows([*names]):
        totals = counts.setdefault(split, [0] * 4)
        for i, count in enumerate([len(table), *(pc.sum(table[name]).as_py() or 0 for name in names)]):
            totals[i] += count
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    return "\n".join(
        f"{split}: {plural(total, 'utterance')}; usable: text {text:,}, audio {audio:,}, video {video:,}"
        for split, (total, text, audio, video) in counts.items()
    )
