"""Turn the raw files into one row per tone. `prepare` finds this builder by the name of its folder."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Audio, Features, Value
from datasets.builder import Key

from ..base_builder import DEFECTS_COLUMN, Builder
from ..raw_files import RawFolder
from ..song_rows import read_sound
from .raw import RawTree, read_tree

# The id comes first; `defects` and `synthetic` are columns of every data set.
FEATURES = Features(
    {
        "tone_id": Value("string"),
        "audio": Audio(decode=False),
        "loudness": Value("float64"),
        "defects": DEFECTS_COLUMN,
        "synthetic": Value("bool"),
    }
)


class ToytonesBuilder(Builder):
    """One row per tone: the bytes of its sound, and its rating."""

    DESCRIPTION = "Tones with loudness ratings."
    RAW_DIR = "the folder with tones.csv"
    features = FEATURES
    SHARD_INPUTS = 32  # tones per Parquet file
    ROW = "tone"
    DEFECTS = ("unreadable_audio",)
    REDISTRIBUTION = None  # the rows may be shared

    def read_raw(self, raw_dir: str | Path) -> RawTree:
        return read_tree(raw_dir)

    def _split_generators(self, dl_manager: datasets.DownloadManager | None) -> list[datasets.SplitGenerator]:
        # `prepare` divides the list into shards and repeats the other values for each shard.
        inputs = {"tones": self.tree.tones, "root": self.tree.root, "synthetic": self.tree.synthetic}
        return [datasets.SplitGenerator("train", gen_kwargs=inputs)]

    @staticmethod  # so that `prepare` can pickle it for its processes without the builder
    def _generate_tables(
        tones: list[dict[str, str]], root: RawFolder, synthetic: bool
    ) -> Iterator[tuple[Key, pa.Table]]:
        for i, tone in enumerate(tones):
            defects: list[dict] = []  # an unreadable sound is reported here, and the row is kept
            audio, _ = read_sound(root, f"{tone['tone_id']}.wav", defects)
            row = {"tone_id": tone["tone_id"], "audio": audio, "loudness": float(tone["loudness"])}
            row |= {"defects": defects, "synthetic": synthetic}
            yield Key(0, i), pa.Table.from_pylist([row], schema=FEATURES.arrow_schema)
