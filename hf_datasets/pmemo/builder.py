"""Build PMEmo 2019, one row per song, from its raw tree (see raw.py). README.md has the licence and the columns.

The builder also works without `hf_datasets.prepare`: `PmemoBuilder(raw_dir="/data/PMEmo2019").download_and_prepare()`.
"""

from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets.builder import Key

from ..base_builder import Builder
from ..defects import SIGNAL_DEFECTS, located, make_defect
from ..ratings import RATINGS
from ..raw_files import RawFolder
from ..song_rows import FEATURES, check_ends, check_listeners, check_time, check_trial, read_sound
from .raw import RawSong, RawTree, read_eda, read_tree

EDA_RATE = 50.0  # Hz, of the published files; the rate of a row is computed from its time column
LISTENER_ID = r"\d{6}"
RATINGS_START = 15.5  # s; the first 15 s of each clip were not rated
CHORUS_TOLERANCE = 0.5  # s, between the length of the clip and the chorus times in metadata.csv
SCHEMA = FEATURES.arrow_schema

# Songs of the real data whose clips are too short to be rated (issue 6 of github.com/HuiZhangDB/PMEmo).
KNOWN_UNRATED = frozenset(
    "11 64 85 95 101 110 118 205 206 226 264 278 291 311 320 352 359 371 384 392 404 459 464 596 610 687 866".split()
)


class PmemoBuilder(Builder):
    """One row per song: the bytes of the sound, the EDA of each listener in uS, ratings and defects."""

    DESCRIPTION = "PMEmo 2019: song choruses, arousal and valence, and the skin conductance of their listeners."
    HOMEPAGE = "https://github.com/HuiZhangDB/PMEmo"
    LICENSE = "research only, not redistributable"
    RAW_DIR = "the folder that PMEmo2019 was unpacked to"
    features = FEATURES
    SHARD_INPUTS = 16  # songs per Parquet file, about 11 MB of the real data
    DEFECTS = SIGNAL_DEFECTS
    REDISTRIBUTION = "its authors state no licence, so it is for research only and not redistributable"

    def read_raw(self, raw_dir: str | Path) -> RawTree:
        tree = read_tree(raw_dir)
        if not tree.songs:
            raise ValueError(
                f"{tree.root.location}: no songs: metadata.csv has no rows, and EDA/ and chorus/ have no files. Give "
                f"{self.RAW_DIR}."
            )
        return tree

    def _split_generators(self, dl_manager: datasets.DownloadManager | None) -> list[datasets.SplitGenerator]:
        inputs = {"songs": self.tree.songs, "root": self.tree.root, "synthetic": self.tree.synthetic}
        return [datasets.SplitGenerator("train", gen_kwargs=inputs)]

    @staticmethod
    def _generate_tables(songs: list[RawSong], root: RawFolder, synthetic: bool) -> Iterator[tuple[Key, pa.Table]]:
        for i, song in enumerate(root.ahead(songs, lambda song: (song.audio, song.eda))):
            row = read_song(song, root) | {"synthetic": synthetic}
            yield Key(0, i), pa.Table.from_pylist([row], schema=SCHEMA)


def read_song(song: RawSong, root: RawFolder) -> dict:
    """Read one song into a row, without the column `synthetic`."""
    defects = list(song.defects)
    if song.audio is None:
        defects.append(make_defect("audio_missing"))
    audio, seconds = (None, None) if song.audio is None else read_sound(root, song.audio, defects)
    rate, trials = _read_trials(song, root, seconds, defects)
    if seconds is not None and seconds < RATINGS_START:
        defects.append(make_defect("clip_shorter_than_annotation", seconds))
    if seconds is not None and song.chorus_seconds is not None:
        excess = seconds - song.chorus_seconds
        if abs(excess) > CHORUS_TOLERANCE:
            defects.append(make_defect("chorus_duration_mismatch", excess))
    if not any(song.ratings.get(name) is not None for name in ("arousal_mean", "valence_mean")):
        known = "known: the clip is too short to be rated" if song.song_id in KNOWN_UNRATED else ""
        defects.append(make_defect("missing_annotation", detail=known))
    if not song.dynamic:
        defects.append(make_defect("missing_dynamic_annotation"))
    return {
        "song_id": song.song_id,
        "title": song.title,
        "artist": song.artist,
        "audio": audio,
        "audio_seconds": seconds,
        "eda_rate": rate,
        "trials": trials,
        **{name: song.ratings.get(name) for name in RATINGS},
        "dynamic": [
            {"time_seconds": time, **{name: ratings.get(name) for name in RATINGS}}
            for time, ratings in sorted(song.dynamic.items())
        ],
        "defects": defects,
    }


def _read_trials(
    song: RawSong, root: RawFolder, audio_seconds: float | None, defects: list[dict]
) -> tuple[float | None, list[dict]]:
    """Return the EDA rate in Hz and one trial per column, in the file's order; no trials if the file is unreadable."""
    if song.eda is None:
        defects.append(make_defect("eda_missing"))
        return None, []
    data = b""
    try:
        data = root.read(song.eda)
        listeners, columns, text_defects = read_eda(data)
        rate, time_defects = check_time(columns[:, 0], EDA_RATE)
    except (ValueError, OSError) as error:
        defects.append(make_defect("unreadable_eda", len(data), detail=located(song.eda, error)))
        return None, []
    defects += text_defects + time_defects + check_listeners(listeners, LISTENER_ID)
    first = float(columns[0, 0])  # s
    if audio_seconds is not None:
        defects += check_ends(first, len(columns), rate, audio_seconds)
    trials = []
    for i, listener in enumerate(listeners):
        eda = np.where(np.isfinite(columns[:, i + 1]), columns[:, i + 1], np.nan)
        defects += check_trial(eda, rate, listener)
        # A listener can have several columns; `trial` has to be unique.
        earlier = listeners[:i].count(listener)
        trial = f"{song.song_id}_{listener}" + (f"_{earlier + 1}" if earlier else "")
        trials.append({"listener": listener, "trial": trial, "offset_seconds": first, "eda": eda.astype(np.float32)})
    return rate, trials
