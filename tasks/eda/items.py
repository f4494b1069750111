"""Songs that several people heard, as training items: two tables made once and cached, and a view of one split side.

A song's sound is featurised once, however many listened; a trial (one listener, one song) points at its song.
"""

import functools
import hashlib
import inspect
import json
import logging
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset

from evaluation import descriptors
from evaluation.descriptors import SAMPLING_RATE, describe
from media import audio, biosignal, eda_settings, filters, scaling
from media.audio import read_audio
from media.biosignal import process_eda
from media.eda_settings import EdaSettings
from media.scaling import Scaling
from modeling import feature_extraction_audio
from modeling.feature_extraction_audio import AudioFeatureExtractor
from modeling.layers import IGNORE_LABEL
from training.environment import versions

logger = logging.getLogger(__name__)

SONGS_PER_BATCH = 8  # songs featurised at once
CODE = (audio, biosignal, eda_settings, filters, scaling, feature_extraction_audio, descriptors, sys.modules[__name__])
EXCHANGED_AMONG = 8  # songs of neighbouring lengths, for the control of exchanged sounds
NOT_HEARD = ("unreadable_audio", "audio_missing")  # defects that leave a song without sound
FIGURES = re.compile(r"^[\d.]+% of |, lowest \S+ uS")  # what differs from trial to trial in a note


SONG_COLUMNS = datasets.Features(
    frames=datasets.Value("int32"),
    input_features=datasets.List(datasets.Value("float32")),
    descriptors=datasets.List(datasets.Value("float32")),
)
TRIAL_COLUMNS = datasets.Features(
    song=datasets.Value("int32"),
    song_id=datasets.Value("string"),
    artist=datasets.Value("string"),
    listener=datasets.Value("string"),
    trial=datasets.Value("string"),
    labels=datasets.List(datasets.Value("float32")),
    mask=datasets.List(datasets.Value("uint8")),
    rejected=datasets.Value("string"),
    notes=datasets.List(datasets.Value("string")),
)


@dataclass(frozen=True)
class SignalTables:
    """What the builder's rows become, and what was left out on the way."""

    songs: datasets.Dataset  # frames, input_features (frames * F, flat), descriptors (frames * D, flat)
    trials: datasets.Dataset  # song (row of songs), song_id, artist, listener, trial, labels (frames * C, flat), mask
    channels: tuple[str, ...]
    counts: dict[str, Any]


def make_tables(
    rows: datasets.Dataset, extractor: AudioFeatureExtractor, settings: EdaSettings, processes: int
) -> SignalTables:
    """Features of every readable song and processed targets of every trial that the quality rules keep."""
    defects = [[defect["what"] for defect in song] for song in rows["defects"]]
    heard = [row for row, kinds in enumerate(defects) if not set(kinds) & set(NOT_HEARD)]
    usable = rows.select(heard)
    common = {"remove_columns": rows.column_names, "num_proc": processes if processes > 1 else None, "batched": True}
    songs = usable.map(
        featurise_songs,
        batch_size=SONGS_PER_BATCH,
        fn_kwargs={"feature_settings": extractor_settings(extractor), "code": code_digest()},
        features=SONG_COLUMNS,
        desc="audio features",
        **common,
    )
    processed = usable.map(
        process_trials,
        batch_size=1,
        with_indices=True,
        fn_kwargs={"settings": asdict(settings), "code": code_digest()},
        features=TRIAL_COLUMNS,
        desc="skin conductance",
        **common,
    )
    kept = [row for row, reason in enumerate(processed["rejected"]) if reason is None]
    trials = processed.select(kept).flatten_indices()
    counts = count_what_was_left_out(rows, defects, set(heard), processed, trials)
    if not len(trials):
        raise ValueError(
            f"no usable trial in {len(rows)} songs: left out {counts['songs_left_out']}, rejected "
            f"{counts['trials_rejected']}; see `python -m hf_datasets.prepare <name> --check_only`"
        )
    return SignalTables(songs, trials, settings.channels, counts)


def count_what_was_left_out(
    rows: datasets.Dataset,
    defects: list[list[str]],
    heard: set[int],
    processed: datasets.Dataset,
    trials: datasets.Dataset,
) -> dict[str, Any]:
    """Every song and trial of the data set is in one of these counts; what is missing is logged."""
    listeners = [len(song) for song in rows["trials"]]
    silent = [kind for row, kinds in enumerate(defects) if row not in heard for kind in kinds if kind in NOT_HEARD]
    unfelt = [row for row in heard if not listeners[row]]
    rejected = [reason for reason in processed["rejected"] if reason is not None]
    counts = {
        "songs": len(rows),
        "songs_left_out": dict(Counter(silent) + Counter({"no_trial": len(unfelt)})),
        "trials": sum(listeners),
        "trials_rejected": dict(Counter(rejected) + Counter({"song_left_out": sum(listeners) - len(processed)})),
        "notes": dict(Counter(FIGURES.sub("", note) for notes in trials["notes"] for note in notes)),
    }
    for kind in ("songs_left_out", "trials_rejected"):
        if counts[kind]:
            logger.warning("%s: %s", kind.replace("_", " "), counts[kind])
    return counts


def code_digest() -> str:
    """A digest of the code behind the tables: a cache is not served after the code or its libraries have changed."""
    text = "".join(inspect.getsource(module) for module in CODE) + json.dumps(versions())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def extractor_settings(extractor: AudioFeatureExtractor) -> str:
    """The settings of an extractor as text: what the cache of features depends on."""
    return json.dumps(extractor.to_dict(), sort_keys=True)


@functools.lru_cache(maxsize=1)
def extractor_of(settings: str) -> AudioFeatureExtractor:
    """The extractor that some settings describe; one a process."""
    return AudioFeatureExtractor.from_dict(json.loads(settings))


def featurise_songs(batch: dict[str, list], feature_settings: str, code: str) -> dict[str, list]:
    """Features and descriptors of some songs, flat. `code` is here for the cache's fingerprint."""
    extractor = extractor_of(feature_settings)
    sounds = read_all(batch, extractor.sampling_rate)
    features = extractor(sounds, sampling_rate=extractor.sampling_rate, return_tensors="np")
    frames = features["attention_mask"].sum(axis=1)  # (B,)
    flat = [song[:count].ravel() for song, count in zip(features["input_features"], frames, strict=True)]
    if extractor.sampling_rate != SAMPLING_RATE:
        sounds = read_all(batch, SAMPLING_RATE)
    described = [describe(sound, extractor.frame_rate).ravel() for sound in sounds]
    return {"frames": frames, "input_features": flat, "descriptors": described}


def read_all(batch: dict[str, list], sampling_rate: int) -> list[np.ndarray]:
    """The sounds (samples,) of some songs at `sampling_rate` Hz."""
    pairs = zip(batch["audio"], batch["song_id"], strict=True)
    return [read_audio(sound["bytes"], sampling_rate, name=f"song {song_id}")[0] for sound, song_id in pairs]


def process_trials(batch: dict[str, list], indices: list[int], settings: dict[str, Any], code: str) -> dict[str, list]:
    """The trials of one song on the time grid, a row each; a rejected trial keeps its row and its reason."""
    (trials,), (rate,) = batch["trials"], batch["eda_rate"]
    columns: dict[str, list] = {name: [] for name in ("labels", "mask", "rejected", "notes")}
    for trial in trials:
        eda = on_the_clock_of_the_audio(np.asarray(trial["eda"], np.float64), rate, trial["offset_seconds"])
        temperature = skin_temperature(trial, rate, (batch.get("temperature_rate") or [None])[0])
        processed = process_eda(eda, rate, EdaSettings(**settings), temperature)
        columns["labels"].append(processed.values.astype(np.float32).ravel())
        columns["mask"].append(processed.mask.astype(np.uint8))
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
    return on_the_clock_of_the_audio(values, rate, trial["offset_seconds"])


def on_the_clock_of_the_audio(eda: np.ndarray, rate: float, offset_seconds: float) -> np.ndarray:
    """Let sample 0 be the start of the sound: what was recorded before it is cut, what is missing is NaN."""
    offset = round(offset_seconds * rate)  # samples
    return np.concatenate([np.full(offset, np.nan), eda]) if offset > 0 else eda[-offset:]


def ragged_column(table: datasets.Dataset, name: str) -> list[np.ndarray]:
    """The lists of a column as views of the memory-mapped file: nothing is read until it is used."""
    views = []
    for chunk in table.data.column(name).chunks:
        values, offsets = chunk.values.to_numpy(zero_copy_only=True), chunk.offsets.to_numpy()
        views += [values[start:stop] for start, stop in zip(offsets, offsets[1:], strict=False)]
    return views


def trial_values(tables: SignalTables, members: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Targets (T, C) in the unit of the signal and masks (T,) of some trials."""
    labels, masks = ragged_column(tables.trials, "labels"), ragged_column(tables.trials, "mask")
    return [(labels[row].reshape(len(masks[row]), -1), masks[row].astype(bool)) for row in members]


class TrialDataset(Dataset):
    """Trials of one side of a split, as arrays ready to be padded.

    An item is asked for by `index` (the whole trial) or by `(index, seed)` (a random window of it).
    """

    def __init__(self, tables: SignalTables, members: np.ndarray, scaling: Scaling, window: int = 0) -> None:
        """`members` are rows of `tables.trials`; `window` is in frames, 0 for whole trials."""
        features, song_frames = ragged_column(tables.songs, "input_features"), tables.songs["frames"][:]
        trials = tables.trials.select_columns(["song", "song_id", "listener", "trial"]).select(members)[:]
        self.song_ids, self.listeners, self.trials = trials["song_id"], trials["listener"], trials["trial"]
        self.songs = trials["song"]  # rows of `tables.songs`
        self.window = window
        self.input_features, self.labels = [], []
        values = trial_values(tables, members)
        for (target, mask), song, listener in zip(values, trials["song"], trials["listener"], strict=True):
            scaled = np.where(mask[:, None], scaling.apply(target, mask, listener), IGNORE_LABEL).astype(np.float32)
            self.input_features.append(features[song].reshape(song_frames[song], -1))  # (T, F), a view
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
