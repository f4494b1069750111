"""Embeddings by a pretrained encoder, against a plain loop over windows: `python -m benchmarks.encoders`.

Recordings of 2 to 30 s are ESC-10's clips, joined (noise and tones where they are not at hand, which the output says),
as wav, flac, ogg and mp3, mono and stereo, of four sampling rates. The encoder is EfficientAT mn04, with its published
weights where FELTSOUND_REAL_DATA or ../shared/data has them, else with random ones.

Ours is `launch.extract` from its command line on, Parquet included. The plain loop reads a file with soundfile,
resamples it with soxr, and calls extractor and model for one window after the other; `batches of 8` calls them for 8
windows of a recording at a time. Neither writes anything. All embeddings have to be equal to half precision.

The cache is that of a detector's training: windows of a side, embedded for the first time and found again, both up to
the arrays in memory. Peak memory is that of a fresh process for the whole command. One thread; `--full` takes 60
recordings in place of 8, five rounds in place of three, and four times as many for memory.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
import datasets.config
import numpy as np
import pyarrow.parquet as pq
import soundfile
import soxr
import torch

from benchmarks.esc10_tree import real_data
from benchmarks.models import MEBIBYTE, resident_bytes
from benchmarks.timing import Timing, compare, print_ratio, print_table, print_value, ratio
from launch import extract
from media.audio import read_audio
from modeling import EfficientAtConfig, EfficientAtForAudioClassification, EncoderConfig
from modeling.modeling_encoder import EncoderForAudioClassification
from tasks.detection.embedded import embed_side
from tasks.detection.eval_windows import ClipWindows
from tasks.detection.pools import EvalClips
from training.encoders import Encoder, encoder_once
from training.official_efficientat import LABELS_FILE, save_encoder

# N windows, S samples of a window, D numbers of an embedding

WEIGHTS = "efficientat_mn04_as.safetensors"
WIDTH = 0.4  # of mn04
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
RATES = (32000, 44100, 48000, 22050)  # Hz
SHORTEST, LONGEST, SHORT = 2.0, 30.0, 10.0  # s; recordings for memory are up to SHORT
PEAK = 0.5  # of full scale: a window beyond full scale is made softer by ours alone
BATCH = 8
APART = 1e-3  # of a number of 1 or less, and relative to a larger one: float16 has 11 bits


def find_encoder(folder: Path) -> str:
    """The name of the encoder, a file or folder; says which weights it has."""
    weights, labels = real_data() / "models" / WEIGHTS, real_data() / "audioset" / "meta" / LABELS_FILE
    if weights.is_file() and labels.is_file():
        print(f"encoder: published weights, {WEIGHTS}")
        for file in (weights, labels):
            (folder / file.name).symlink_to(file.resolve())
        return str(folder / WEIGHTS)
    print(f"encoder: random weights, for {weights} or {labels} is missing")
    torch.manual_seed(0)
    save_encoder(EfficientAtForAudioClassification(EfficientAtConfig(width=WIDTH)), folder / "random")
    return str(folder / "random")


def find_sounds() -> list[np.ndarray]:
    """Sounds (samples,) at the first of RATES; says where they come from."""
    paths = sorted((real_data() / "esc10").glob("*/*.ogg"))[::4]
    if paths:
        print(f"recordings: {len(paths)} clips of ESC-10, joined")
        return [read_audio(path, RATES[0])[0] for path in paths]
    print(f"recordings: noise and tones, for {real_data()}/esc10 has no clips")
    dice, time = np.random.default_rng(0), np.arange(5 * RATES[0]) / RATES[0]
    return [np.sin(2 * np.pi * hertz * time) + dice.normal(0, 0.2, len(time)) for hertz in dice.uniform(100, 4000, 24)]


def write_recordings(folder: Path, sounds: list[np.ndarray], count: int, longest: float) -> Path:
    """Recordings of evenly spread lengths; each has another format, rate or number of channels than the one before."""
    folder.mkdir()
    dice, endless = np.random.default_rng(0), np.concatenate(sounds)
    for place, seconds in enumerate(dice.permutation(np.linspace(SHORTEST, longest, count))):
        rate, (name, subtype) = RATES[place // 4 % 4], list(FORMATS.items())[place % 4]
        begin = int(dice.integers(len(endless)))
        sound = np.resize(np.roll(endless, -begin)[: round(longest * RATES[0])], round(seconds * RATES[0]))
        sound = soxr.resample(PEAK * sound / np.abs(sound).max(), RATES[0], rate)
        channels = np.stack([sound, sound[::-1] / 2], 1) if place % 3 == 0 else sound
        soundfile.write(folder / f"{place:03d}.{name}", channels, rate, format=name.upper(), subtype=subtype)
    return folder


def by_command(name: str, sounds: Path, output: Path) -> dict[str, np.ndarray]:
    """Ours: id -> embeddings (N, D)."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        extract.main(["--encoder", name, "--input", str(sounds), "--output", str(output)])
    table = pq.read_table(output, columns=["creative_id", "embeddings_frames", "embeddings"])
    rows = zip(*(column.combine_chunks() for column in table.columns), strict=True)
    return {name.as_py(): found.values.to_numpy().reshape(count.as_py(), -1) for name, count, found in rows}


@torch.inference_mode()
def by_loop(encoder: Encoder, sounds: Path, batch: int) -> dict[str, np.ndarray]:
    """The peer: id -> embeddings (N, D)."""
    config, rate, found = encoder.model.config, encoder.extractor.sampling_rate, {}
    size, hop = round(config.window_seconds * rate), round(config.hop_seconds * rate)
    for path in sorted(sounds.iterdir()):
        audio, native = soundfile.read(path, dtype="float32", always_2d=True)
        audio = soxr.resample(audio.mean(1), native, rate)
        starts = sorted({*range(0, len(audio) - size + 1, hop), len(audio) - size})
        parts = []
        for first in range(0, len(starts), batch):
            windows = [audio[start : start + size] for start in starts[first : first + batch]]
            features = encoder.extractor(windows, sampling_rate=rate)
            parts.append(encoder.base(**features).pooler_output.numpy())
        found[path.name] = np.concatenate(parts)
    return found


def largest_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Between embeddings of the same windows; relative to numbers above 1."""
    if ours.keys() != theirs.keys():
        raise SystemExit(f"recordings {sorted(ours)} and {sorted(theirs)} are not the same")
    apart = [np.abs(ours[name] - theirs[name]) / np.maximum(np.abs(theirs[name]), 1) for name in ours]
    return float(max(each.max() for each in apart))


def compare_extraction(name: str, sounds: Path, place: Path, rounds: int) -> tuple[dict[str, Timing], float]:
    """Timings, and the largest difference between ours and a peer."""
    encoder, found = encoder_once(name), {}

    def keep(rival: str, run: Callable[[], dict[str, np.ndarray]]) -> None:
        found[rival] = run()

    def ours() -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory(dir=place) as output:
            return by_command(name, sounds, Path(output))

    rivals = {
        "launch.extract": ours,
        "plain loop": partial(by_loop, encoder, sounds, 1),
        f"batches of {BATCH}": partial(by_loop, encoder, sounds, BATCH),
    }
    timings = compare({rival: partial(keep, rival, run) for rival, run in rivals.items()}, rounds, warmup=1)
    windows = [*map(len, found["plain loop"].values())]
    print(f"\nextraction, {len(windows)} recordings, {sum(windows)} windows, 1 thread, torch {torch.__version__}")
    print_table(timings)
    apart = max(largest_difference(found["launch.extract"], found[rival]) for rival in [*rivals][1:])
    if not apart <= APART:
        raise SystemExit(f"embeddings are {apart:.2g} apart, more than {APART:g}")
    return timings, apart


def one_side(sounds: Path, encoder: Encoder) -> ClipWindows:
    """All windows of recordings, as training scores them."""
    files = sorted(sounds.iterdir())
    columns = {
        "clip_id": [file.stem for file in files],
        "audio": [{"bytes": None, "path": str(file)} for file in files],
        "audio_seconds": [soundfile.info(file).duration for file in files],
    }
    rows = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    count = len(files)
    clips = EvalClips(
        rows=np.arange(count),
        targets=np.zeros(count, bool),
        strong=np.zeros(count, bool),
        events=np.zeros((0, 2)),
        edges=np.zeros(count + 1, int),
    )
    config = encoder.model.config
    return ClipWindows(rows, clips, config.window_seconds, config.hop_seconds, encoder.extractor.sampling_rate)


def compare_cache(sounds: Path, encoder: Encoder, rounds: int) -> dict[str, Timing]:
    """Print a table; windows of a side by the store, empty and full."""
    model = EncoderForAudioClassification(EncoderConfig(encoder_config=encoder.model.config.to_diff_dict())).eval()
    model.encoder.load_state_dict(encoder.model.state_dict())
    side = one_side(sounds, encoder)

    def embeddings() -> np.ndarray:
        with contextlib.redirect_stderr(io.StringIO()):
            return embed_side(side, model, encoder.extractor).column("embeddings")

    with tempfile.TemporaryDirectory() as place:

        def first_time() -> None:
            datasets.config.HF_DATASETS_CACHE = Path(tempfile.mkdtemp(dir=place))
            embeddings()

        timings = compare({"first time": first_time, "found again": embeddings}, rounds, warmup=0)
    print(f"\na side of {len(side)} windows in training's store")
    print_table(timings)
    return timings


def peak_memory(name: str, sounds: Path, output: Path) -> float:
    """MiB that the command needs in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.encoders", "--peak_memory_of", name, str(sounds), str(output)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory_by_count(name: str, sounds: list[np.ndarray], place: Path, count: int) -> dict[int, float]:
    """Print a table; peak memory for `count` recordings, and for four times as many: those, under other names too."""
    few, many = write_recordings(place / "few", sounds, count, SHORT), place / "many"
    many.mkdir()
    for file in few.iterdir():
        for copy in range(4):
            os.link(file, many / f"{copy}-{file.name}")
    peaks = {n * count: peak_memory(name, folder, place / f"out{n}") for n, folder in ((1, few), (4, many))}
    print("\npeak memory of the command")
    for recordings, peak in peaks.items():
        print(f"{recordings:4} recordings  {peak:.0f} MiB")
    return peaks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more recordings, more rounds")
    parser.add_argument("--peak_memory_of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_memory_of:
        name, sounds, output = options.peak_memory_of
        by_command(name, Path(sounds), Path(output))
        print(resident_bytes("VmHWM") / MEBIBYTE)  # ru_maxrss would start at that of the parent
        return
    recordings, rounds, count = (60, 5, 64) if options.full else (8, 3, 16)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        name, sounds = find_encoder(place), find_sounds()
        mixed = write_recordings(place / "mixed", sounds, recordings, LONGEST)
        timings, apart = compare_extraction(name, mixed, place, rounds)
        cache = compare_cache(mixed, encoder_once(name), rounds - 1)
        few, many = memory_by_count(name, sounds, place, count).values()
    print()
    ours = timings["launch.extract"]
    print_value("extract_apart_from_plain_loop", apart, "of a number of 1")
    print_value("cache_hit", 1e3 * cache["found again"].median, "ms")
    print_value("extract_peak_memory", many, "MiB")
    print_value("extract_memory_growth", many - few, "MiB")
    print_ratio("extract_vs_plain_loop", ratio(timings["plain loop"], ours))
    print_ratio(f"extract_vs_batches_of_{BATCH}", ratio(timings[f"batches of {BATCH}"], ours))
    print_ratio("cache_hit_vs_compute", ratio(cache["first time"], cache["found again"]))


if __name__ == "__main__":
    main()
