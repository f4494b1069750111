"""Rows and items of a small data set of the detection task, and the sounds in them."""

from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import soundfile
from datasets import Audio, Features, Value

from tasks.detection.items import Items

RATE = 16000  # Hz
ANYWHERE = (np.nan, np.nan)
COLUMNS = Features(
    {
        "clip_id": Value("string"),
        "start_seconds": Value("float64"),  # of the excerpt in the video; the file contains only the excerpt
        "end_seconds": Value("float64"),
        "audio": Audio(decode=False),
        "audio_seconds": Value("float32"),
    }
)


def make_rows(sounds: list[Path | str | bytes | None]) -> datasets.Dataset:
    """Return one row per sound; clips start at 30 s of the video, as more than half of AudioSet's do."""
    structs = [
        sound if sound is None else {"bytes": sound, "path": None} if isinstance(sound, bytes)
        else {"bytes": None, "path": str(sound)}
        for sound in sounds
    ]  # fmt: skip
    columns = {
        "clip_id": [f"-clip_{number:05d}" for number in range(len(sounds))],
        "start_seconds": [30.0] * len(sounds),
        "end_seconds": [40.0] * len(sounds),
        "audio": structs,
        "audio_seconds": [10.0] * len(sounds),
    }
    return datasets.Dataset(pa.table(columns, schema=COLUMNS.arrow_schema))


def make_items(*items: tuple[int, tuple[float, float], int, int]) -> Items:
    """Return one item per (row, event, kind, label)."""
    clip, events, kind, label = zip(*items, strict=True)
    start, end = np.array(events, np.float32).T
    return Items(np.array(clip, np.int32), start, end, np.array(kind, np.int8), np.array(label, np.int16))


def encode(audio: np.ndarray, rate: int, container: str, subtype: str) -> bytes:
    file = BytesIO()
    soundfile.write(file, audio, rate, format=container, subtype=subtype)
    return file.getvalue()


def noise(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (round(seconds * rate), channels)).astype(np.float32)
