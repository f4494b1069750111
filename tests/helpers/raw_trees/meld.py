"""Tables and clips of a small raw tree of MELD, and its rows."""

from collections import Counter
from pathlib import Path

import numpy as np

from hf_datasets.meld.builder import MeldBuilder
from hf_datasets.meld.synthesize import COLUMNS, table_text
from hf_datasets.meld.synthetic_clips import show, sing, write_clip
from hf_datasets.meld.utterances import clock_text, read_utterances
from tests.helpers.prepared_data import rows_of

CLIP = show(np.random.default_rng(0), "joy", 0.4), sing(np.random.default_rng(0), "joy", 0.4)


def build(raw_dir: Path | str, cache: Path, **options) -> tuple[MeldBuilder, list[dict]]:
    builder = MeldBuilder(raw_dir=raw_dir, cache_dir=str(cache), **options)
    return builder, rows_of(builder)


def raw_kinds(builder: MeldBuilder) -> Counter:
    return Counter(defect["what"] for defect in builder.raw_defects)


def line(number: int = 0, **cells) -> dict:
    """Return a line of a table."""
    values = [number, "So, the kettle again.", "Bo", "neutral", "neutral", 0, number, 1, 2]
    times = [clock_text(60 + 3 * number), clock_text(61.5 + 3 * number)]
    return dict(zip(COLUMNS, values + times, strict=True)) | cells


def parse(*lines: dict) -> tuple[list, list[dict]]:
    return read_utterances(table_text(list(lines)).encode(), "train", "/raw/train_sent_emo.csv")


def make_tree(folder: Path, clips: dict[str, object], lines: int = 1) -> Path:
    """Write a short table of the test split, and clips by name, each (pictures, sound) or bytes."""
    clips_folder = folder / "output_repeated_splits_test"
    clips_folder.mkdir(parents=True)
    (folder / "SYNTHETIC").write_text("")
    (folder / "test_sent_emo.csv").write_bytes(table_text([line(number) for number in range(lines)]).encode())
    for name, clip in clips.items():
        if isinstance(clip, bytes):
            (clips_folder / name).write_bytes(clip)
        else:
            write_clip(clips_folder / name, *clip)
    return folder
