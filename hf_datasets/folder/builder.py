"""Your own recordings as a builder: a folder with metadata.csv in, one row a song out. Layout: see README.md.

It works alone, `FolderBuilder(raw_dir="my_data").download_and_prepare()`, and for `hf_datasets.prepare`.
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
from ..song_rows import FEATURES, check_ends, read_sound
from .metadata import METADATA, Folder, Recording, Song, read_folder
from .recording import read_recording

SCHEMA = FEATURES.arrow_schema


class FolderBuilder(Builder):
    """One row per song: the sound's bytes, everyone's signal, and what is wrong with them."""

    DESCRIPTION = "One's own sounds and signals of their listeners."
    RAW_DIR = f"the folder that holds {METADATA}"
    features = FEATURES
    SHARD_INPUTS = 16  # songs a Parquet file
    DEFECTS = SIGNAL_DEFECTS
    REDISTRIBUTION = (
        "whether your recordings may be shared only you know, and their card still is that of the synthetic sample"
    )

    def read_raw(self, raw_dir: str | Path) -> Folder:
        return read_folder(raw_dir)

    def _split_generators(self, dl_manager: datasets.DownloadManager | None) -> list[datasets.SplitGenerator]:
        inputs = {"songs": self.tree.songs, "root": self.tree.root, "synthetic": self.tree.synthetic}
        return [datasets.SplitGenerator("train", gen_kwargs=inputs)]

    @staticmethod  # so that `prepare` can send it to its workers without the builder
    def _generate_tables(songs: list[Song], root: RawFolder, synthetic: bool) -> Iterator[tuple[Key, pa.Table]]:
        for i, song in enumerate(root.ahead(songs, _files_of)):
            row = read_song(song, root) | {"synthetic": synthetic}
            yield Key(0, i), pa.Table.from_pylist([row], schema=SCHEMA)


def read_song(song: Song, root: RawFolder) -> dict:
    """One row (without `synthetic`), with every defect that this song's files show."""
    defects: list[dict] = []
    audio, seconds = read_sound(root, song.audio, defects, _line(song.recordings[0]))
    rate, trials = _read_trials(song, root, seconds, defects)
    return {
        "song_id": song.song_id,
        "title": song.of_the_song["title"],
        "artist": song.of_the_song["artist"],
        "audio": audio,
        "audio_seconds": seconds,
        "eda_rate": rate,
        "trials": trials,
        **{name: song.of_the_song[name] for name in RATINGS},
        "dynamic": [],
        "defects": defects,
    }


def _files_of(song: Song) -> Iterator[str]:
    yield song.audio
    yield from (recording.signal for recording in song.recordings)


def _read_trials(
    song: Song, root: RawFolder, audio_seconds: float | None, defects: list[dict]
) -> tuple[float | None, list[dict]]:
    """The rate of all signals in Hz and a trial a recording, those left out that have no place in the row."""
    rate, first, trials = None, None, []
    for recording in song.recordings:
        data = b""
        try:
            data = root.read(recording.signal)
            own_rate, start, values, found = read_recording(data, recording)
        except (ValueError, OSError) as error:
            detail = _line(recording) + located(recording.signal, error)
            defects.append(make_defect("unreadable_eda", len(data), recording.listener, detail))
            continue
        defects += [_of_recording(defect, recording) for defect in found]
        misfit = _misfit(start, len(values), own_rate, audio_seconds)
        if first is not None and abs(own_rate / rate - 1) * len(values) > 0.5:  # half a sample at the end
            misfit = f"{own_rate:.6g} Hz here, {rate:.6g} Hz in {first.signal}; resample a song's signals to one rate"
        if misfit:
            detail = f"{_line(recording)}{recording.signal}: {misfit}"
            defects.append(make_defect("unusable_recording", None, recording.listener, detail))
            continue
        if first is None:
            rate, first = own_rate, recording
        if audio_seconds is not None:
            ends = check_ends(start, len(values), own_rate, audio_seconds)
            defects += [_of_recording(defect, recording) for defect in ends]
        eda = values.astype(np.float32)
        trials.append({"listener": recording.listener, "trial": recording.trial, "offset_seconds": start, "eda": eda})
    return rate, trials


def _misfit(start: float, samples: int, rate: float, audio_seconds: float | None) -> str | None:
    """Why a signal that starts at `start` s on the sound's clock has nothing to do with the sound, if so."""
    end = start + samples / rate
    if audio_seconds is None or (start < audio_seconds and end > 0):
        return None
    return (
        f"it lasts from {start:.10g} to {end:.10g} s, the sound from 0 to {audio_seconds:g} s; give the time of its "
        "first sample on the sound's clock as `offset_seconds`"
    )


def _of_recording(defect: dict, recording: Recording) -> dict:
    """The defect with its listener and file, which a song's other recordings do not share."""
    where = f"{METADATA} line {recording.line}: {recording.signal}"
    detail = f"{where}: {defect['detail']}" if defect["detail"] else where
    return defect | {"listener": recording.listener, "detail": detail}


def _line(recording: Recording) -> str:
    return f"{METADATA} line {recording.line}: "
