"""Columns and checks shared by the data sets of sounds and skin conductance.

A row is a song with its sound and one trial per listening. EDA is electrodermal activity, in microsiemens (uS).
"""

import re
from pathlib import Path

import numpy as np
from datasets import Audio, Features, List, Value

from media.audio import AudioError, read_audio
from system.text import plural

from .base_builder import DEFECTS_COLUMN
from .defects import located, make_defect
from .ratings import RATINGS
from .raw_files import RawFolder

FLAT_RANGE = 0.1  # uS; real near-flat trials span 0.04 to 0.05 uS, 25 to 30 quantisation steps
FEW_LEVELS = 50  # distinct values in a whole trial
LARGEST_EDA = 60.0  # uS
STEEPEST_SLOPE = 10.0  # uS/s
SHORTEST_TRIAL = 10.0  # s; a response takes some 5 s to rise and fall
TIME_TOLERANCE = 1e-3  # s, deviation of one step of the time column
RATE_TOLERANCE = 2e-3  # relative to the expected rate

RATINGS_COLUMNS = {name: Value("float64") for name in RATINGS}
FEATURES = Features(
    {
        "song_id": Value("string"),
        "title": Value("string"),
        "artist": Value("string"),
        "audio": Audio(decode=False),  # the file's bytes; `datasets` needs torchcodec to decode, media.audio does not
        "audio_seconds": Value("float64"),
        "eda_rate": Value("float64"),
        "trials": List(
            {
                "listener": Value("string"),
                "trial": Value("string"),
                "offset_seconds": Value("float64"),
                "eda": List(Value("float32")),
            }
        ),
        **RATINGS_COLUMNS,
        "dynamic": List({"time_seconds": Value("float64"), **RATINGS_COLUMNS}),
        "defects": DEFECTS_COLUMN,
        "synthetic": Value("bool"),
    }
)


def read_sound(root: RawFolder, name: str, defects: list[dict], where: str = "") -> tuple[dict, float | None]:
    """Read a sound file: its value for the column `audio`, and its decoded length in seconds.

    A file that does not decode is kept, has no length, and adds a defect.

    Args:
        root: folder of the file.
        name: path of the file in `root`.
        defects: list to which a defect is added.
        where: text before the file's name in the defect, such as the table line that names the file.
    """
    data, seconds = b"", None
    try:
        data = root.read(name)
        samples, sampling_rate = read_audio(data, name=name)
        seconds = len(samples) / sampling_rate
    except (AudioError, OSError) as error:
        defects.append(make_defect("unreadable_audio", len(data), detail=where + located(name, error)))
    return {"bytes": data, "path": Path(name).name}, seconds


def check_time(times: np.ndarray, expected_rate: float | None) -> tuple[float, list[dict]]:
    """Return the rate in Hz of a time column (samples,) in s, and its defects. ValueError if it has no rate.

    Without `expected_rate` (Hz) any rate is accepted.
    """
    if len(times) < 2:
        raise ValueError(f"too few rows for a rate: {len(times)}")
    if not np.isfinite(times).all():
        raise ValueError(f"not a number in the time column: {plural(np.count_nonzero(~np.isfinite(times)), 'cell')}")
    if times[-1] <= times[0]:
        raise ValueError(f"time goes from {times[0]} to {times[-1]} s")
    rate = float((len(times) - 1) / (times[-1] - times[0]))  # n samples enclose n - 1 steps
    steps = np.diff(times)
    deviation = float(np.abs(steps - np.median(steps)).max())
    defects = []
    if deviation > TIME_TOLERANCE:
        defects.append(make_defect("irregular_time", deviation))
    if expected_rate is not None and abs(rate / expected_rate - 1) > RATE_TOLERANCE:
        defects.append(make_defect("unexpected_rate", rate, detail=f"expected {expected_rate:g} Hz"))
    return rate, defects


def check_ends(first: float, samples: int, rate: float, audio_seconds: float) -> list[dict]:
    """Return a defect if the EDA does not end with the sound.

    Args:
        first: time of the first EDA sample, s on the sound's clock.
        samples: number of EDA samples.
        rate: of the EDA, Hz.
        audio_seconds: length of the sound.
    """
    excess = first + samples / rate - audio_seconds  # s; a sample covers 1 / rate s
    if abs(excess) <= 0.5 / rate:
        return []
    return [make_defect("eda_longer_than_audio" if excess > 0 else "eda_shorter_than_audio", abs(excess))]


def check_trial(eda: np.ndarray, rate: float, listener: str) -> list[dict]:
    """Return the defects of one trial: EDA (samples,) in uS at `rate` Hz, NaN where the file has no number."""
    defects = []
    valid = np.isfinite(eda)
    seconds = np.count_nonzero(valid) / rate
    if seconds < SHORTEST_TRIAL:
        defects.append(make_defect("too_short_trial", seconds, listener))
    if not valid.all():
        # Padded with valid samples at both ends, the edges alternate between start and end of a run of NaN.
        edges = np.flatnonzero(np.diff(np.concatenate(([0], ~valid, [0]))))
        defects.append(make_defect("nan_run", (edges[1::2] - edges[::2]).max() / rate, listener))
    if not valid.any():
        return defects
    values = eda[valid]
    low, high = values.min(), values.max()
    if low < 0:
        defects.append(make_defect("negative_eda", low, listener))
    if high > LARGEST_EDA:
        defects.append(make_defect("out_of_range", high, listener))
    if high - low < FLAT_RANGE:
        defects.append(make_defect("flat_eda", high - low, listener))
    # In float64, rounding noise such as 8.706660000000001 would count as another level.
    levels = len(np.unique(values.astype(np.float32)))
    if levels < FEW_LEVELS:
        defects.append(make_defect("few_levels", levels, listener))
    slopes = np.abs(np.diff(eda)) * rate
    slope = np.nanmax(slopes) if np.isfinite(slopes).any() else 0.0
    if slope > STEEPEST_SLOPE:
        defects.append(make_defect("steep_slope", slope, listener))
    return defects


def check_listeners(listeners: list[str], pattern: str) -> list[dict]:
    """Return a defect for each listener name that does not match `pattern`, and for each that occurs repeatedly."""
    odd = [make_defect("odd_listener_id", None, name) for name in listeners if not re.fullmatch(pattern, name)]
    repeated = sorted({name for name in listeners if listeners.count(name) > 1})
    return odd + [make_defect("duplicate_listener", None, name) for name in repeated]
