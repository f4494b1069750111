"""Build a data set from your own recordings: a folder with metadata.csv, one row per song. README.md has the layout.

Use it alone, `FolderBuilder(raw_dir="my_data").download_and_prepare()`, or through `hf_datasets.prepare`.
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
    """Make one row per song: the sound's bytes, the signals of all listeners, and defects."""

    DESCRIPTION = "Your own sounds, and signals of their listeners."
    RAW_DIR = f"the folder that holds {METADATA}"
    features = FEATURES
    SHARD_INPUTS = 16  # songs per Parquet file
    DEFECTS = SIGNAL_DEFECTS
    REDISTRIBUTION = (
        "only you know whether your recordings may be shared, and their card is still that of the synthetic sample"
    )

    def read_raw(self, raw_dir: str | Path) -> Folder:
        return read_folder(raw_dir)

    def _split_generators(self, dl_manager: datasets.DownloadManager | None) -> list[datasets.SplitGenerator]:
        inputs = {"songs": self.tree.songs, "root": self.tree.root, "synthetic": self.tree.synthetic}
        return [datasets.SplitGenerator("train", gen_kwargs=inputs)]

    @staticmethod  # `prepare` pickles it for its workers, without the builder and its folder
    def _generate_tables(songs: list[Song], root: RawFolder, synthetic: bool) -> Iterator[tuple[Key, pa.Table]]:
        for i, song in enumerate(root.ahead(songs, _files_of)):
            row = read_song(song, root) | {"synthetic": synthetic}
            yield Key(0, i), pa.Table.from_pylist([row], schema=SCHEMA)


def read_song(song: Song, root: RawFolder) -> dict:
    """Return one row (without `synthetic`), with every defect of the song's files."""
    defects: list[dict] = []
    audio, seconds = read_sound(root, song.audio, defects, _line(song.recordings[0]))
    rate, trials = _read_trials(song, root, seconds, defects)
    return {
        "song_id": song.song_id,
        "title": song.song_values["title"],
        "artist": song.song_values["artist"],
        "audio": audio,
        "audio_seconds": seconds,
        "eda_rate": rate,
        "trials": trials,
        **{name: song.song_values[name] for name in RATINGS},
        "dynamic": [],
        "defects": defects,
    }


def _files_of(song: Song) -> Iterator[str]:
    yield song.audio
    yield from (recording.signal for recording in song.recordings)


def _read_trials(
    song: Song, root: RawFolder, audio_seconds: float | None, defects: list[dict]
) -> tuple[float | None, list[dict]]:
    """Return the rate of the song's signals in Hz, and one trial per usable recording; add defects to `defects`."""
    rate, first, trials = None, None, []
    for recording in song.recordings:
        data = b""
        try:
            data = root.read(recording.signal)
            own_rate, start, values, own_defects = read_recording(data, recording)
        except (ValueError, OSError) as error:
            detail = _line(recording) + located(recording.signal, error)
            defects.append(make_defect("unreadable_eda", len(data), recording.listener, detail))
            continue
        defects += [_add_recording(defect, recording) for defect in own_defects]
        problem = _overlap_problem(start, len(values), own_rate, audio_seconds)
        # A row has one rate for all trials. Rates by a time column differ by rounding, which may shift the last sample
        # by up to half a sample.
        if first is not None and abs(own_rate / rate - 1) * len(values) > 0.5:
            problem = (
                f"{own_rate:.6g} Hz, but {first.signal} of the same song has {rate:.6g} Hz. Resample one of them."
            )
        if problem:
            detail = f"{_line(recording)}{recording.signal}: {problem}"
            defects.append(make_defect("unusable_recording", None, recording.listener, detail))
            continue
        if first is None:
            rate, first = own_rate, recording
        if audio_seconds is not None:
            ends = check_ends(start, len(values), own_rate, audio_seconds)
            defects += [_add_recording(defect, recording) for defect in ends]
        eda = values.astype(np.float32)
        trials.append({"listener": recording.listener, "trial": recording.trial, "offset_seconds": start, "eda": eda})
    return rate, trials


def _overlap_problem(start: float, samples: int, rate: float, audio_seconds: float | None) -> str | None:
    """Return the problem if a signal does not overlap its sound; `start` is in s on the sound's clock."""
    end = start + samples / rate
    if audio_seconds is None or (start < audio_seconds and end > 0):
        return None
    return (
        f"signal from {start:.10g} to {end:.10g} s, sound from 0 to {audio_seconds:g} s. Give the time of the first "
        "sample on the sound's clock as `offset_seconds`."
    )


def _add_recording(defect: dict, recording: Recording) -> dict:
    """Add listener, line and file to a defect of one recording."""
    where = f"{METADATA} line {recording.line}: {recording.signal}"
    detail = f"{where}: {defect['detail']}" if defect["detail"] else where
    return defect | {"listener": recording.listener, "detail": detail}


def _line(recording: Recording) -> str:
    return f"{METADATA} line {recording.line}: "
