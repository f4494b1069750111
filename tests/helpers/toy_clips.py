"""A few short clips as rows and pools, made in memory, for tests of detector training."""

import io

import datasets
import numpy as np
import pyarrow as pa
import soundfile
from datasets import Audio, Features, Value

from tasks.detection.eval_windows import ClipWindows
from tasks.detection.items import Items, Kind, LabelledPool
from tasks.detection.pools import ClipCounts, ClipPools, EvalClips

RATE = 4000  # Hz
SECONDS = 1.0
POSITIVES, STRONG_LABELS, STRONG_EACH, WEAK_CLIPS = 14, 3, 5, 24
SCORED_ROWS = np.array([0, 1, 14, 15, 16, 30], np.int32)  # two positives, three strong negatives, one weak negative


def toy_clips(broken: tuple[int, ...] = (), silent: tuple[int, ...] = ()) -> tuple[datasets.Dataset, ClipPools]:
    """Return clips: positives are a tone at 600 Hz, negatives at another pitch; `broken` rows are not valid audio."""
    count = POSITIVES + STRONG_LABELS * STRONG_EACH + WEAK_CLIPS
    kinds = np.repeat([Kind.POSITIVE, Kind.STRONG, Kind.WEAK], [POSITIVES, STRONG_LABELS * STRONG_EACH, WEAK_CLIPS])
    labels = np.concatenate(
        [np.zeros(POSITIVES), 1 + np.repeat(np.arange(STRONG_LABELS), STRONG_EACH), 1 + np.arange(WEAK_CLIPS) % 4]
    ).astype(np.int16)
    sounds = []
    for row in range(count):
        dice = np.random.default_rng(row)
        pitch = 600.0 if kinds[row] == Kind.POSITIVE else 200.0 + 300 * labels[row]
        time = np.arange(int(RATE * SECONDS)) / RATE
        file = io.BytesIO()
        tone = 0.3 * np.sin(2 * np.pi * pitch * time + dice.random()) + 0.1 * dice.normal(size=len(time))
        soundfile.write(file, tone * (row not in silent), RATE, format="WAV")
        sounds.append({"bytes": b"no sound" if row in broken else file.getvalue(), "path": f"{row}.wav"})
    features = Features({"clip_id": Value("string"), "audio": Audio(decode=False), "audio_seconds": Value("float32")})
    table = pa.table(
        {
            "clip_id": [f"clip{row:07d}" for row in range(count)],
            "audio": pa.array(sounds, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "audio_seconds": pa.array([SECONDS] * count, pa.float32()),
        }
    )
    rows = datasets.Dataset(table.cast(features.arrow_schema))
    numbers = np.arange(count, dtype=np.int32)
    weak = kinds == Kind.WEAK
    items = Items(
        clip=numbers,
        start=np.where(weak, np.nan, 0.3).astype(np.float32),
        end=np.where(weak, np.nan, 0.5).astype(np.float32),
        kind=kinds.astype(np.int8),
        label=labels,
    )
    no_clips = EvalClips(
        np.zeros(0, np.int32),
        np.zeros(0, bool),
        np.zeros(0, bool),
        np.zeros(1, np.int64),
        np.zeros((0, 2), np.float32),
    )
    pools = ClipPools(
        items=items,
        positives=numbers[kinds == Kind.POSITIVE],
        strong=LabelledPool(numbers[kinds == Kind.STRONG], labels[kinds == Kind.STRONG]),
        weak=LabelledPool(numbers[weak], labels[weak]),
        explicit=np.zeros(0, np.int32),
        sides={"validation": no_clips, "test": no_clips},
        targets=[0],
        rules=[],
        trim=[],
        counts=ClipCounts(count, count, {}, {}, 0, 0, 0, 0, 0),
    )
    return rows, pools


def toy_side(
    broken: tuple[int, ...] = (),
    silent: tuple[int, ...] = (),
    seconds: float = 0.4,
    hop: float = 0.2,
    strong: bool = True,
) -> ClipWindows:
    """Return the windows of six clips of 1 s, the first two with the target from 0.3 to 0.5 s."""
    rows, _ = toy_clips(broken, silent)
    targets = SCORED_ROWS < POSITIVES
    edges = np.array([0, 1, 2, 2, 2, 2, 2], np.int64)
    is_strong = np.full(len(SCORED_ROWS), strong)
    clips = EvalClips(SCORED_ROWS, targets, is_strong, edges, np.array([[0.3, 0.5], [0.3, 0.5]], np.float32))
    return ClipWindows(rows, clips, seconds, hop, RATE)
