"""Build HKU956, one row per song, from its raw tree (see raw.py) and a folder of sounds. README.md has the columns.

The builder also works without `hf_datasets.prepare`: `Hku956Builder(raw_dir=..., audio_root=...)
.download_and_prepare()`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from datasets.builder import Key

from system.text import csv_text

from ..base_builder import Builder, RawConfig
from ..defects import SIGNAL_DEFECTS, located, make_defect
from ..ratings import RATINGS
from ..raw_files import RawFolder
from ..shards import RowReader
from ..song_rows import FEATURES as SHARED
from ..song_rows import check_ends, check_listeners, check_trial, read_sound
from .raw import KINDS, PERSONALITY, RATINGS_OF_TRIAL, RawSong, RawTree, RawTrial, read_signal, read_tree, settle_rate

EDA_RATE = 4.0  # Hz
RATES = {"BVP": 64.0, "HR": 1.0, "TEMP": 4.0}  # Hz, of the other signals
COLUMNS = {"BVP": "bvp", "HR": "hr", "TEMP": "temperature"}
LISTENER_ID = r"hku\d{4}"
SKIP_TOLERANCE = 2.0  # s; a listener who stops this close to the end has heard the whole song
END_TOLERANCE = 1.0  # s between the ends of signal and listening: recorder and player were started by hand

_trial = SHARED["trials"].feature | {
    "song_no": Value("int32"),
    **{name: Value("float64") for name in RATINGS_OF_TRIAL},
    "valence": Value("string"),
    "arousal": Value("string"),
    "personality": {name: Value("float64") for name in PERSONALITY},
    **{column: List(Value("float32")) for column in COLUMNS.values()},
}
_rates = {f"{column}_rate": Value("float64") for column in COLUMNS.values()}
FEATURES = Features(SHARED | {"trials": List(_trial), "link": Value("string"), **_rates})
SCHEMA = FEATURES.arrow_schema


@dataclass
class Hku956Config(RawConfig):
    """`raw_dir` is the folder or s3:// URL of HKU956, `audio_root` that of the <song_id>.mp3 files."""

    audio_root: str | None = None


class Hku956Builder(Builder):
    """One row per song: the bytes of the sound, each listener's EDA in uS, other signals and ratings, and defects."""

    BUILDER_CONFIG_CLASS = Hku956Config
    DESCRIPTION = "HKU956: songs, and the skin conductance, pulse and temperature of their listeners."
    HOMEPAGE = "https://doi.org/10.25442/hku.21080821"
    LICENSE = "CC BY-NC 4.0"
    RAW_DIR = "the folder that HKU956 was unpacked to"
    features = FEATURES
    SHARD_INPUTS = 16  # songs per Parquet file
    DEFECTS = SIGNAL_DEFECTS
    REDISTRIBUTION = "each song has a separate Creative Commons licence (not checked); the signals are CC BY-NC 4.0"

    def __init__(
        self,
        raw_dir: str | Path | None = None,
        audio_root: str | Path | None = None,
        hash: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(raw_dir, hash, {"audio_root": None if audio_root is None else str(audio_root)}, **kwargs)

    def read_raw(self, raw_dir: str | Path, audio_root: str | None) -> RawTree:
        return read_tree(raw_dir, audio_root)

    def lists(self, rows: RowReader) -> tuple[dict[str, str | bytes], str]:
        """Return missing_audio.csv: the songs without a sound, with the links to them."""
        missing = [(song.song_id, song.link or "") for song in self.tree.songs if song.audio is None]
        return {"missing_audio.csv": csv_text([("song_id", "link"), *missing])}, ""

    def _split_generators(self, dl_manager: datasets.DownloadManager | None) -> list[datasets.SplitGenerator]:
        tree = self.tree
        inputs = {"songs": tree.songs, "root": tree.root, "sounds": tree.sounds, "synthetic": tree.synthetic}
        return [datasets.SplitGenerator("train", gen_kwargs=inputs)]

    @staticmethod
    def _generate_tables(
        songs: list[RawSong], root: RawFolder, sounds: RawFolder, synthetic: bool
    ) -> Iterator[tuple[Key, pa.Table]]:
        # Two iterators over the same songs: one prefetches the sounds, the other the signals, from two folders.
        ahead = sounds.ahead(songs, lambda song: (song.audio,))
        signals = root.ahead(songs, lambda song: (name for trial in song.trials for name in trial.files.values()))
        for i, (song, _) in enumerate(zip(ahead, signals, strict=True)):
            row = read_song(song, root, sounds) | {"synthetic": synthetic}
            yield Key(0, i), pa.Table.from_pylist([row], schema=SCHEMA)


def read_song(song: RawSong, root: RawFolder, sounds: RawFolder) -> dict:
    """Read one song into a row, without the column `synthetic`."""
    defects = list(song.defects)
    audio, seconds = (None, None) if song.audio is None else read_sound(sounds, song.audio, defects)
    read_trials = [(trial, *_read_trial(trial, root, defects)) for trial in song.trials]
    # A row has one EDA rate: that of most trials, and of two equally frequent ones the usual rate.
    rates = Counter(rate for _, rate, row in read_trials if row is not None)
    rate = max(rates, key=lambda rate: (rates[rate], rate == EDA_RATE), default=None)
    trials = []
    for trial, own_rate, row in read_trials:
        if row is None:
            continue
        if own_rate != rate:
            detail = f"song_no {trial.song_no}: {own_rate:g} Hz, but the other trials of the song have {rate:g} Hz"
            defects.append(make_defect("unusable_recording", None, trial.participant, detail))
            continue
        if seconds is not None:
            defects += _check_length(trial, len(row["eda"]), rate, seconds)
        trials.append(row)
    defects += check_listeners(list(dict.fromkeys(trial.participant for trial in song.trials)), LISTENER_ID)
    return {
        "song_id": song.song_id,
        "title": None,
        "artist": None,
        "audio": audio,
        "audio_seconds": seconds,
        "eda_rate": rate,
        "trials": trials,
        **dict.fromkeys(RATINGS),
        "dynamic": [],
        "link": song.link,
        **{f"{COLUMNS[kind]}_rate": rate for kind, rate in RATES.items()},
        "defects": defects,
    }


def _read_trial(trial: RawTrial, root: RawFolder, defects: list[dict]) -> tuple[float | None, dict[str, Any] | None]:
    """Return the EDA rate in Hz and the entry of `trials`; (None, None) for a trial without EDA."""
    who = trial.participant
    defects += trial.defects
    signals = {kind: _read_signal(trial, kind, root, defects) for kind in KINDS}
    eda = signals.pop("EDA")
    if eda is None:
        return None, None
    duration = trial.ratings.get("play_duration")
    rate, fits = settle_rate(len(eda), duration, EDA_RATE)
    if not fits:
        detail = f"song_no {trial.song_no}: {len(eda)} samples, listened for {duration:g} s"
        defects.append(make_defect("unclear_rate", len(eda) / duration, who, detail))
    elif rate != EDA_RATE:
        detail = f"song_no {trial.song_no}: expected {EDA_RATE:g} Hz"
        defects.append(make_defect("unexpected_rate", rate, who, detail))
    defects += check_trial(eda, rate, who)
    others = {COLUMNS[kind]: None if values is None else values.astype(np.float32) for kind, values in signals.items()}
    return rate, {
        "listener": who,
        "trial": f"{trial.song_id}_{who}_{trial.song_no}",
        "offset_seconds": 0.0,
        "eda": eda.astype(np.float32),
        "song_no": trial.song_no,
        **{name: trial.ratings.get(name) for name in RATINGS_OF_TRIAL},
        **{name: trial.categories.get(name) for name in ("valence", "arousal")},
        "personality": trial.personality or dict.fromkeys(PERSONALITY),
        **others,
    }


def _read_signal(trial: RawTrial, kind: str, root: RawFolder, defects: list[dict]) -> np.ndarray | None:
    who, name = trial.participant, trial.files.get(kind)
    where = f"song_no {trial.song_no}"
    if name is None:
        what = "eda_missing" if kind == "EDA" else "signal_missing"
        defects.append(make_defect(what, None, who, where if kind == "EDA" else f"{where}: {kind}"))
        return None
    data = b""
    try:
        data = root.read(name)
        values, start, texts = read_signal(data)
    except (ValueError, OSError) as error:
        what = "unreadable_eda" if kind == "EDA" else "signal_missing"
        defects.append(make_defect(what, len(data) if kind == "EDA" else None, who, located(name, error)))
        return None
    if start is not None:
        defects.append(make_defect("start_time_line", start, who, name))
    if texts:
        defects.append(make_defect("non_numeric_cell", len(texts), who, f"{name}: {texts[0][:40]!r}"))
    if not len(values):
        defects.append(make_defect("empty_file", None, who, name))
        return None
    return values


def _check_length(trial: RawTrial, samples: int, rate: float, audio_seconds: float) -> list[dict]:
    """Return defects if the listener skipped the end of the song, or if the EDA does not end with the listening."""
    where = {"listener": trial.participant, "detail": f"song_no {trial.song_no}"}
    listened, defects = trial.ratings.get("play_duration"), []  # s
    if listened is None or listened >= audio_seconds - SKIP_TOLERANCE:
        listened = audio_seconds
    else:
        defects = [make_defect("skipped_song", audio_seconds - listened)]
    if abs(samples / rate - listened) > END_TOLERANCE:
        defects += check_ends(0.0, samples, rate, listened)
    return [defect | where for defect in defects]
