"""Songs with several listeners as training items: two tables made once and cached, and a view of one split side.

Features of a song are made once for all its listeners; a trial (one listener, one song) points at its song.
"""

import functools
import itertools
import json
import logging
import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any, cast

import datasets
import numpy as np
from torch.utils.data import Dataset

from evaluation.descriptors import DESCRIPTORS, SAMPLING_RATE, describe
from media.audio import read_audio, resample
from media.biosignal import process_eda
from media.eda_settings import EdaSettings
from media.scaling import Scaling
from modeling.feature_extraction_audio import AudioFeatureExtractor
from modeling.layers import IGNORE_LABEL
from system.text import plural
from training.environment import version

logger = logging.getLogger(__name__)

TABLES_VERSION = 1  # raise it when the same recordings and settings give other tables: cached ones are not used then
LIBRARIES = (
    "av",
    "cvxeda",
    "librosa",
    "numpy",
    "scipy",
    "soundfile",
    "soxr",
    "torch",
    "transformers",
)  # of the tables
SONGS_PER_BATCH = 8  # songs whose features are made at once
EXCHANGED_AMONG = 8  # songs of neighbouring lengths, for the control of exchanged sounds
NO_SOUND = ("unreadable_audio", "audio_missing")  # defects that leave a song without sound
TRIALS_NAMED = 20  # rejected trials that a record names, per reason
FIGURES = re.compile(r"^[\d.]+% of |, lowest \S+ uS")  # what differs from trial to trial in a note


@dataclass(frozen=True)
class SignalTables:
    """Songs and trials made of the builder's rows, and counts of what was left out."""

    songs: datasets.Dataset
    trials: datasets.Dataset
    channels: tuple[str, ...]
    counts: dict[str, Any]


def make_tables(
    rows: datasets.Dataset, extractor: AudioFeatureExtractor, settings: EdaSettings, processes: int
) -> SignalTables:
    """Make features of every readable song, and targets of every trial that the quality rules keep."""
    trials, counts = make_trials(rows, settings, processes)
    songs = rows.select(songs_with_sound(rows)).map(
        make_features,
        batch_size=SONGS_PER_BATCH,
        fn_kwargs={"feature_settings": extractor_settings(extractor), "made_by": made_by()},
        features=song_columns(extractor),
        desc="audio features",
        **of_each_map(rows, processes),
    )
    return SignalTables(songs, trials, settings.channels, counts)


def make_trials(
    rows: datasets.Dataset, settings: EdaSettings, processes: int
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """Make the targets of every trial that the quality rules keep, and count what was left out."""
    with_sound = songs_with_sound(rows)
    processed = rows.select(with_sound).map(
        process_trials,
        batch_size=1,
        with_indices=True,
        fn_kwargs={"settings": asdict(settings), "made_by": made_by()},
        features=trial_columns(settings),
        desc="skin conductance",
        **of_each_map(rows, processes),
    )
    kept = [row for row, reason in enumerate(processed["rejected"]) if reason is None]
    trials = processed.select(kept).flatten_indices()
    counts = count_what_was_left_out(rows, set(with_sound), processed, trials)
    if not len(trials):
        raise ValueError(
            f"no usable trial in {plural(len(rows), 'song')}: left out {counts['songs_left_out']}, rejected "
            f"{counts['trials_rejected']}; see `python -m hf_datasets.prepare <name> --check_only`"
        )
    return trials, counts


def of_each_map(rows: datasets.Dataset, processes: int) -> dict[str, Any]:
    """Return the arguments that both tables are made with."""
    return {"remove_columns": rows.column_names, "num_proc": processes if processes > 1 else None, "batched": True}


def defects_of(rows: datasets.Dataset) -> list[list[str]]:
    """Return the kinds of defects of each song."""
    return [[defect["what"] for defect in song] for song in rows["defects"]]


def songs_with_sound(rows: datasets.Dataset) -> list[int]:
    """Return the rows whose sound can be read."""
    return [row for row, kinds in enumerate(defects_of(rows)) if not set(kinds) & set(NO_SOUND)]


def song_columns(extractor: AudioFeatureExtractor) -> datasets.Features:
    return datasets.Features(
        input_features=arrays_of_width(extractor.feature_size), descriptors=arrays_of_width(len(DESCRIPTORS))
    )


def trial_columns(settings: EdaSettings) -> datasets.Features:
    return datasets.Features(
        song=datasets.Value("int32"),  # row of the songs
        song_id=datasets.Value("string"),
        artist=datasets.Value("string"),
        listener=datasets.Value("string"),
        trial=datasets.Value("string"),
        labels=arrays_of_width(len(settings.channels)),  # NaN in frames that do not count
        rejected=datasets.Value("string"),
        notes=datasets.List(datasets.Value("string")),
    )


def count_what_was_left_out(
    rows: datasets.Dataset,
    with_sound: set[int],
    processed: datasets.Dataset,
    trials: datasets.Dataset,
) -> dict[str, Any]:
    """Every song and trial of the data set is in one of these counts; what is missing is logged.

    The first TRIALS_NAMED rejected trials of each reason are named as in `splits.json`.
    """
    names = [
        [f"{song}/{trial['listener']}/{trial['trial']}" for trial in trials]
        for song, trials in zip(rows["song_id"], rows["trials"], strict=True)
    ]
    defects = enumerate(defects_of(rows))
    silent = [kind for row, kinds in defects if row not in with_sound for kind in kinds if kind in NO_SOUND]
    without_trial = [row for row in with_sound if not names[row]]
    rejected = defaultdict(list)
    made = [name for row in sorted(with_sound) for name in names[row]]  # in the order of `processed`
    for name, reason in zip(made, processed["rejected"], strict=True):
        if reason is not None:
            rejected[reason].append(name)
    for row in sorted(set(range(len(rows))) - with_sound):
        rejected["song_left_out"] += names[row]
    counts = {
        "songs": len(rows),
        "songs_left_out": dict(Counter(silent) + Counter({"no_trial": len(without_trial)})),
        "trials": sum(map(len, names)),
        "trials_rejected": {reason: len(found) for reason, found in rejected.items() if found},
        "rejected_trials": {reason: found[:TRIALS_NAMED] for reason, found in rejected.items() if found},
        "notes": dict(Counter(FIGURES.sub("", note) for notes in trials["notes"] for note in notes)),
    }
    for kind in ("songs_left_out", "trials_rejected"):
        if counts[kind]:
            logger.warning("%s: %s", kind.replace("_", " "), counts[kind])
    return counts


def made_by() -> dict[str, str | int]:
    """Return the versions that cached tables depend on in addition to settings."""
    return {"tables": TABLES_VERSION} | {name: version(name) for name in LIBRARIES}


def extractor_settings(extractor: AudioFeatureExtractor) -> str:
    """Return the settings of an extractor as text, on which cached features depend."""
    return json.dumps(extractor.to_dict(), sort_keys=True)


@functools.lru_cache(maxsize=1)
def extractor_of(settings: str) -> AudioFeatureExtractor:
    """Make the extractor with some settings, once per process."""
    return AudioFeatureExtractor(**json.loads(settings))


def make_features(batch: dict[str, list], feature_settings: str, made_by: dict[str, Any]) -> dict[str, list]:
    """Return features and descriptors of some songs, each decoded once.

    Args:
        made_by: versions, for the cache's fingerprint alone.
    """
    extractor = extractor_of(feature_settings)
    names = [f"song {song_id}" for song_id in batch["song_id"]]
    decoded = [read_audio(audio["bytes"], name=name) for audio, name in zip(batch["audio"], names, strict=True)]
    sounds = {
        new_rate: [resample(sound, rate, new_rate, name) for (sound, rate), name in zip(decoded, names, strict=True)]
        for new_rate in {extractor.sampling_rate, SAMPLING_RATE}
    }
    rate, frame_rate = extractor.sampling_rate, cast(float, extractor.frame_rate)  # that of the target
    features = extractor(sounds[rate], sampling_rate=rate, return_tensors="np")
    frames = features["attention_mask"].sum(axis=1)  # (B,)
    return {
        "input_features": [song[:count] for song, count in zip(features["input_features"], frames, strict=True)],
        "descriptors": [describe(sound, frame_rate) for sound in sounds[SAMPLING_RATE]],
    }


def process_trials(
    batch: dict[str, list], indices: list[int], settings: dict[str, Any], made_by: dict[str, Any]
) -> dict[str, list]:
    """Return the trials of one song on the time grid; a rejected trial keeps its row, with the reason.

    Args:
        made_by: versions, for the cache's fingerprint alone.
    """
    (trials,), (rate,) = batch["trials"], batch["eda_rate"]
    columns: dict[str, list] = {name: [] for name in ("labels", "rejected", "notes")}
    for trial in trials:
        eda = align_to_audio(np.asarray(trial["eda"], np.float64), rate, trial["offset_seconds"])
        temperature = skin_temperature(trial, rate, (batch.get("temperature_rate") or [None])[0])
        processed = process_eda(eda, rate, EdaSettings(**settings), temperature)
        columns["labels"].append(np.where(processed.mask[:, None], processed.values, np.nan).astype(np.float32))
        columns["rejected"].append(processed.rejected)
        columns["notes"].append(list(processed.notes))
    return columns | {
        "song": indices * len(trials),
        "song_id": batch["song_id"] * len(trials),
        "artist": batch["artist"] * len(trials),
        "listener": [trial["listener"] for trial in trials],
        "trial": [trial["trial"] for trial in trials],
    }


def skin_temperature(trial: dict[str, Any], rate: float, temperature_rate: float | None) -> np.ndarray | None:
    """Degrees C at the times of the EDA's samples, which may go on longer; None where none was recorded."""
    if temperature_rate is None or not trial.get("temperature"):
        return None
    recorded = np.asarray(trial["temperature"], np.float64)
    clock = np.arange(int(len(recorded) / temperature_rate * rate)) / rate
    values = np.interp(clock, np.arange(len(recorded)) / temperature_rate, recorded)
    return align_to_audio(values, rate, trial["offset_seconds"])


def align_to_audio(eda: np.ndarray, rate: float, offset_seconds: float) -> np.ndarray:
    """Let sample 0 be the start of the sound: what was recorded before it is cut, what is missing is NaN."""
    offset = round(offset_seconds * rate)  # samples
    return np.concatenate([np.full(offset, np.nan), eda]) if offset > 0 else eda[-offset:]


def arrays_of_width(width: int) -> datasets.List:
    """Return the type of a column of arrays (T, width), which `array_column` reads."""
    return datasets.List(datasets.List(datasets.Value("float32"), length=width))


def array_column(table: datasets.Dataset, name: str) -> list[np.ndarray]:
    """Return the arrays (T, width) of a column as views of the memory-mapped file, which are read when they are used.

    (The NumPy format of `Array2D` copies every array, which takes several times as long.)
    """
    views = []
    for chunk in table.data.column(name).chunks:
        frames = chunk.values.values.to_numpy(zero_copy_only=True).reshape(-1, chunk.values.type.list_size)
        views += [frames[start:stop] for start, stop in itertools.pairwise(chunk.offsets.to_numpy())]
    return views


def trial_values(tables: SignalTables, members: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the targets (T, C) in the unit of the signal and the masks (T,) of some trials."""
    labels = array_column(tables.trials, "labels")
    return [(labels[row], np.isfinite(labels[row]).all(axis=1)) for row in members]


class TrialDataset(Dataset):
    """Trials of one side of a split, as arrays ready to be padded.

    An item is asked for by `index` (the whole trial) or by `(index, seed)` (a random window of it).
    """

    def __init__(self, tables: SignalTables, members: np.ndarray, scaling: Scaling, window: int = 0) -> None:
        """`members` are rows of `tables.trials`; `window` is in frames, 0 for whole trials."""
        features = array_column(tables.songs, "input_features")
        trials = tables.trials.select_columns(["song", "song_id", "listener", "trial"]).select(members)[:]
        self.song_ids, self.listeners, self.trials = trials["song_id"], trials["listener"], trials["trial"]
        self.songs = trials["song"]  # rows of `tables.songs`
        self.window = window
        self.input_features, self.labels = [], []
        values = trial_values(tables, members)
        for (target, mask), song, listener in zip(values, trials["song"], trials["listener"], strict=True):
            scaled = np.where(mask[:, None], scaling.apply(target, mask, listener), IGNORE_LABEL).astype(np.float32)
            self.input_features.append(features[song])  # (T, F), a view
            self.labels.append(scaled)  # (T, C)
        self.crop()

    def crop(self) -> None:
        """Sound and skin start together; what one has longer than the other is cut."""
        for row, (features, labels) in enumerate(zip(self.input_features, self.labels, strict=True)):
            frames = min(len(features), len(labels))
            self.input_features[row], self.labels[row] = features[:frames], labels[:frames]

    def exchange_sounds(self, seed: int) -> None:
        """Give each song the sound of another of about the same length: a control that must teach nothing."""
        sounds = {song: features for song, features in zip(self.songs, self.input_features, strict=True)}
        by_length = sorted(sounds, key=lambda song: (len(sounds[song]), song))
        if len(by_length) < 2:
            raise ValueError("shuffle_songs needs two training songs or more")
        generator = np.random.default_rng(seed)
        exchanged = {}
        for block in np.array_split(by_length, max(1, len(by_length) // EXCHANGED_AMONG)):
            others = np.roll(block, generator.integers(1, len(block)))
            exchanged |= {int(song): sounds[int(other)] for song, other in zip(block, others, strict=True)}
        self.input_features = [exchanged[song] for song in self.songs]
        self.crop()

    @property
    def lengths(self) -> list[int]:
        """Frames of each trial."""
        return [len(labels) for labels in self.labels]

    @property
    def window_lengths(self) -> list[int]:
        """Frames of each trial's training window."""
        return [min(frames, self.window or frames) for frames in self.lengths]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, np.ndarray]:
        window = slice(None)
        if isinstance(item, tuple):
            item, seed = item
            frames = len(self.labels[item])
            length = min(frames, self.window or frames)
            start = seed % (frames - length + 1)  # seeds are uniform over 63 bits
            window = slice(start, start + length)
        return {"input_features": self.input_features[item][window], "labels": self.labels[item][window]}
