"""Training items of trials, which are one listener hearing one song.

Two tables are computed once and cached: one row per song with audio features, and one row per trial with the target. A
trial refers to its song, so that all listeners of a song share its features.
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

# Part of the cache key. Raise it if a code change gives different tables for the same recordings and settings.
TABLES_VERSION = 1
# Libraries whose version can change the tables. Their versions are part of the cache key, too.
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
)
SONGS_PER_BATCH = 8  # songs per batch of feature extraction
# Songs of similar length per block, in which the negative control exchanges audio. Similar lengths keep most of a
# trial, because audio and target are cropped to the shorter one.
EXCHANGE_BLOCK = 8
NO_AUDIO = ("unreadable_audio", "audio_missing")  # defects that leave a song without audio
TRIALS_NAMED = 20  # rejected trials that metrics.json names, per reason
# The numbers in a note of `process_eda`. Without them, equal notes of different trials can be counted.
NUMBERS_IN_NOTE = re.compile(r"^[\d.]+% of |, lowest \S+ uS")


@dataclass(frozen=True)
class SignalTables:
    """The cached tables of songs and trials, and counts of excluded ones."""

    songs: datasets.Dataset
    trials: datasets.Dataset
    channels: tuple[str, ...]
    counts: dict[str, Any]


def make_tables(
    rows: datasets.Dataset, extractor: AudioFeatureExtractor, settings: EdaSettings, processes: int
) -> SignalTables:
    """Compute features of every readable song, and targets of every trial that passes the quality rules."""
    trials, counts = make_trials(rows, settings, processes)
    songs = rows.select(songs_with_audio(rows)).map(
        make_features,
        batch_size=SONGS_PER_BATCH,
        fn_kwargs={"feature_settings": extractor_settings(extractor), "made_by": cache_versions()},
        features=song_columns(extractor),
        desc="audio features",
        **map_arguments(rows, processes),
    )
    return SignalTables(songs, trials, settings.channels, counts)


def make_trials(
    rows: datasets.Dataset, settings: EdaSettings, processes: int
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """Compute the target of every trial that passes the quality rules, and count the excluded songs and trials.

    Raises:
        ValueError: No trial passes.
    """
    with_audio = songs_with_audio(rows)
    processed = rows.select(with_audio).map(
        process_trials,
        batch_size=1,  # one song, which becomes one row per trial
        with_indices=True,
        fn_kwargs={"settings": asdict(settings), "made_by": cache_versions()},
        features=trial_columns(settings),
        desc="skin conductance",
        **map_arguments(rows, processes),
    )
    accepted = [row for row, reason in enumerate(processed["rejected"]) if reason is None]
    # `array_column` reads the Arrow table directly and would ignore an indices mapping.
    trials = processed.select(accepted).flatten_indices()
    counts = count_excluded(rows, set(with_audio), processed, trials)
    if not len(trials):
        raise ValueError(
            f"no usable trial in {plural(len(rows), 'song')}: songs_left_out={counts['songs_left_out']}, "
            f"trials_rejected={counts['trials_rejected']}. Run `python -m hf_datasets.prepare <name> --check_only` "
            "for details."
        )
    return trials, counts


def map_arguments(rows: datasets.Dataset, processes: int) -> dict[str, Any]:
    """Return the arguments of `Dataset.map` that both tables share."""
    return {"remove_columns": rows.column_names, "num_proc": processes if processes > 1 else None, "batched": True}


def defects_of(rows: datasets.Dataset) -> list[list[str]]:
    """Return the names of the defects of each song."""
    return [[defect["what"] for defect in song] for song in rows["defects"]]


def songs_with_audio(rows: datasets.Dataset) -> list[int]:
    """Return the indices of the songs whose audio can be read."""
    return [row for row, defects in enumerate(defects_of(rows)) if not set(defects) & set(NO_AUDIO)]


def song_columns(extractor: AudioFeatureExtractor) -> datasets.Features:
    return datasets.Features(
        input_features=arrays_of_width(extractor.feature_size), descriptors=arrays_of_width(len(DESCRIPTORS))
    )


def trial_columns(settings: EdaSettings) -> datasets.Features:
    return datasets.Features(
        song=datasets.Value("int32"),  # row index in the table of songs
        song_id=datasets.Value("string"),
        artist=datasets.Value("string"),
        listener=datasets.Value("string"),
        trial=datasets.Value("string"),
        labels=arrays_of_width(len(settings.channels)),  # (T, C), NaN in frames that do not count
        rejected=datasets.Value("string"),  # reason, None for an accepted trial
        notes=datasets.List(datasets.Value("string")),
    )


def count_excluded(
    rows: datasets.Dataset,
    with_audio: set[int],
    processed: datasets.Dataset,
    trials: datasets.Dataset,
) -> dict[str, Any]:
    """Count songs and trials, with the reasons for excluded ones, and log a warning for these.

    No song or trial goes uncounted. The first TRIALS_NAMED rejected trials of each reason
    are named as in splits.json.
    """
    names = [
        [f"{song}/{trial['listener']}/{trial['trial']}" for trial in trials]
        for song, trials in zip(rows["song_id"], rows["trials"], strict=True)
    ]
    defects = enumerate(defects_of(rows))
    without_audio = [
        name for row, row_defects in defects if row not in with_audio for name in row_defects if name in NO_AUDIO
    ]
    without_trial = [row for row in with_audio if not names[row]]
    rejected = defaultdict(list)
    processed_names = [name for row in sorted(with_audio) for name in names[row]]  # in the order of `processed`
    for name, reason in zip(processed_names, processed["rejected"], strict=True):
        if reason is not None:
            rejected[reason].append(name)
    # A song without audio excludes its trials, too.
    for row in sorted(set(range(len(rows))) - with_audio):
        rejected["song_left_out"] += names[row]
    counts = {
        "songs": len(rows),
        "songs_left_out": dict(Counter(without_audio) + Counter({"no_trial": len(without_trial)})),
        "trials": sum(map(len, names)),
        "trials_rejected": {reason: len(excluded) for reason, excluded in rejected.items() if excluded},
        "rejected_trials": {reason: excluded[:TRIALS_NAMED] for reason, excluded in rejected.items() if excluded},
        "notes": dict(Counter(NUMBERS_IN_NOTE.sub("", note) for notes in trials["notes"] for note in notes)),
    }
    for key in ("songs_left_out", "trials_rejected"):
        if counts[key]:
            logger.warning("%s: %s", key.replace("_", " "), counts[key])
    return counts


def cache_versions() -> dict[str, str | int]:
    """Return the versions that cached tables depend on, in addition to the settings."""
    return {"tables": TABLES_VERSION} | {name: version(name) for name in LIBRARIES}


def extractor_settings(extractor: AudioFeatureExtractor) -> str:
    """Return the settings of an extractor as text: a stable value for the cache key of `Dataset.map`."""
    return json.dumps(extractor.to_dict(), sort_keys=True)


@functools.lru_cache(maxsize=1)
def extractor_of(settings: str) -> AudioFeatureExtractor:
    """Return the extractor with these settings, created once per process."""
    return AudioFeatureExtractor(**json.loads(settings))


def make_features(batch: dict[str, list], feature_settings: str, made_by: dict[str, Any]) -> dict[str, list]:
    """Return the features (T, F) and descriptors (T, D) of a batch of songs. Each song is decoded once.

    Args:
        made_by: versions. Unused here, but `Dataset.map` includes arguments in its cache key.
    """
    extractor = extractor_of(feature_settings)
    names = [f"song {song_id}" for song_id in batch["song_id"]]
    decoded = [read_audio(audio["bytes"], name=name) for audio, name in zip(batch["audio"], names, strict=True)]
    sounds = {
        new_rate: [resample(sound, rate, new_rate, name) for (sound, rate), name in zip(decoded, names, strict=True)]
        for new_rate in {extractor.sampling_rate, SAMPLING_RATE}
    }
    rate, frame_rate = extractor.sampling_rate, cast(float, extractor.frame_rate)
    features = extractor(sounds[rate], sampling_rate=rate, return_tensors="np")
    frames = features["attention_mask"].sum(axis=1)  # (B,)
    return {
        "input_features": [song[:count] for song, count in zip(features["input_features"], frames, strict=True)],
        "descriptors": [describe(sound, frame_rate) for sound in sounds[SAMPLING_RATE]],
    }


def process_trials(
    batch: dict[str, list], indices: list[int], settings: dict[str, Any], made_by: dict[str, Any]
) -> dict[str, list]:
    """Return the trials of one song on the frame grid. A rejected trial keeps its row, with the reason.

    Args:
        made_by: versions. Unused here, but `Dataset.map` includes arguments in its cache key.
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
    """Return the skin temperature in degrees C at the sample times of the EDA, or None if it was not recorded."""
    if temperature_rate is None or not trial.get("temperature"):
        return None
    recorded = np.asarray(trial["temperature"], np.float64)
    # The temperature sensor may have a rate of its own, so interpolate at the sample times of the EDA.
    times = np.arange(int(len(recorded) / temperature_rate * rate)) / rate  # seconds
    values = np.interp(times, np.arange(len(recorded)) / temperature_rate, recorded)
    return align_to_audio(values, rate, trial["offset_seconds"])


def align_to_audio(eda: np.ndarray, rate: float, offset_seconds: float) -> np.ndarray:
    """Shift a recording so that sample 0 is the start of the audio: cut earlier samples, or pad with NaN."""
    offset = round(offset_seconds * rate)  # samples
    return np.concatenate([np.full(offset, np.nan), eda]) if offset > 0 else eda[-offset:]


def arrays_of_width(width: int) -> datasets.List:
    """Return the column type for arrays (T, width), which `array_column` reads without copying."""
    return datasets.List(datasets.List(datasets.Value("float32"), length=width))


def array_column(table: datasets.Dataset, name: str) -> list[np.ndarray]:
    """Return the arrays (T, width) of a column as views of the memory-mapped file."""
    # Not `with_format("numpy")` on an `Array2D` column: it copies every array and takes several times as long.
    views = []
    for chunk in table.data.column(name).chunks:
        # A list of lists: the outer offsets separate rows, the inner values are all numbers of the chunk.
        frames = chunk.values.values.to_numpy(zero_copy_only=True).reshape(-1, chunk.values.type.list_size)
        views += [frames[start:stop] for start, stop in itertools.pairwise(chunk.offsets.to_numpy())]
    return views


def trial_values(tables: SignalTables, members: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the unscaled target (T, C) and the mask (T,) of each trial in `members`."""
    labels = array_column(tables.trials, "labels")
    return [(labels[row], np.isfinite(labels[row]).all(axis=1)) for row in members]


class TrialDataset(Dataset):
    """The trials of one split as items, indexed by `index` (whole trial) or `(index, seed)` (random window)."""

    def __init__(self, tables: SignalTables, members: np.ndarray, scaling: Scaling, window: int = 0) -> None:
        """Scale the targets of the trials.

        Args:
            members: row indices of `tables.trials`.
            window: length of a random window in frames, 0 for whole trials.
        """
        features = array_column(tables.songs, "input_features")
        trials = tables.trials.select_columns(["song", "song_id", "listener", "trial"]).select(members)[:]
        self.song_ids, self.listeners, self.trials = trials["song_id"], trials["listener"], trials["trial"]
        self.songs = trials["song"]  # row indices of `tables.songs`
        self.window = window
        self.input_features, self.labels = [], []
        values = trial_values(tables, members)
        for (target, mask), song, listener in zip(values, trials["song"], trials["listener"], strict=True):
            scaled = np.where(mask[:, None], scaling.apply(target, mask, listener), IGNORE_LABEL).astype(np.float32)
            self.input_features.append(features[song])  # (T, F), a view
            self.labels.append(scaled)  # (T, C)
        self.crop()

    def crop(self) -> None:
        """Cut features and labels of each trial to the shorter of the two. Both start at the same time."""
        for row, (features, labels) in enumerate(zip(self.input_features, self.labels, strict=True)):
            frames = min(len(features), len(labels))
            self.input_features[row], self.labels[row] = features[:frames], labels[:frames]

    def exchange_sounds(self, seed: int) -> None:
        """Give each song the audio of another song of similar length: a control from which nothing can be learned."""
        sounds = {song: features for song, features in zip(self.songs, self.input_features, strict=True)}
        by_length = sorted(sounds, key=lambda song: (len(sounds[song]), song))
        if len(by_length) < 2:
            raise ValueError(f"shuffle_songs=true: {len(by_length)} training song, but 2 are needed. Add songs.")
        generator = np.random.default_rng(seed)
        exchanged = {}
        for block in np.array_split(by_length, max(1, len(by_length) // EXCHANGE_BLOCK)):
            # A rotation by at least 1 never leaves a song with its own audio.
            rotated = np.roll(block, generator.integers(1, len(block)))
            exchanged |= {int(song): sounds[int(other)] for song, other in zip(block, rotated, strict=True)}
        self.input_features = [exchanged[song] for song in self.songs]
        self.crop()

    @property
    def lengths(self) -> list[int]:
        """The length of each trial in frames."""
        return [len(labels) for labels in self.labels]

    @property
    def window_lengths(self) -> list[int]:
        """The length of each trial's training window in frames."""
        return [min(frames, self.window or frames) for frames in self.lengths]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, np.ndarray]:
        window = slice(None)
        if isinstance(item, tuple):
            item, seed = item
            frames = len(self.labels[item])
            length = min(frames, self.window or frames)
            # Seeds are uniform over 63 bits, so the bias of the modulo is negligible.
            start = seed % (frames - length + 1)
            window = slice(start, start + length)
        return {"input_features": self.input_features[item][window], "labels": self.labels[item][window]}
