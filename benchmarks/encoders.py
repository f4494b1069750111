"""Embeddings of a pretrained encoder, compared with a plain loop over windows: `python -m benchmarks.encoders`.

Recordings of 2 to 30 s are made from clips of ESC-10 (or from noise and tones if ESC-10 is missing; the output tells
which), as wav, flac, ogg and mp3, mono and stereo, with four sampling rates. The encoder is EfficientAT mn04, with its
published weights if FELTSOUND_REAL_DATA or ../shared/data has them, otherwise with random weights.

Ours is the whole command `launch.extract`, including Parquet. The plain loop reads a file with soundfile, resamples it
with soxr, and calls extractor and model for one window after the other; `batches of 8` calls them for 8 windows of a
recording at a time. Neither of the two writes files. All embeddings must be equal to half precision.

The cache is that of detector training: the windows of a split, embedded for the first time and read from the cache,
both up to arrays in memory. Peak memory is that of a fresh process for the whole command. All use one thread. `--full`
uses 60 recordings instead of 8, five rounds instead of three, and four times as many recordings for memory.
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

# N windows, S samples per window, D dimensions of an embedding

WEIGHTS = "efficientat_mn04_as.safetensors"
WIDTH = 0.4  # of mn04
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
RATES = (32000, 44100, 48000, 22050)  # Hz
SHORTEST, LONGEST, SHORT = 2.0, 30.0, 10.0  # s; recordings for the memory measurement last up to SHORT
PEAK = 0.5  # of full scale; our code scales down windows that exceed full scale, the peers do not
BATCH = 8
APART = 1e-3  # allowed difference, absolute up to 1 and relative above: float16 has 11 bits


def find_encoder(folder: Path) -> str:
    """Return the path of the encoder; print which weights it has."""
    weights, labels = real_data() / "models" / WEIGHTS, real_data() / "audioset" / "meta" / LABELS_FILE
    if weights.is_file() and labels.is_file():
        print(f"encoder: published weights, {WEIGHTS}")
        for file in (weights, labels):
            (folder / file.name).symlink_to(file.resolve())
        return str(folder / WEIGHTS)
    print(f"encoder: random weights, because {weights} or {labels} is missing")
    torch.manual_seed(0)
    save_encoder(EfficientAtForAudioClassification(EfficientAtConfig(width=WIDTH)), folder / "random")
    return str(folder / "random")


def find_sounds() -> list[np.ndarray]:
    """Return sounds (samples,) at RATES[0]; print where they come from."""
    paths = sorted((real_data() / "esc10").glob("*/*.ogg"))[::4]
    if paths:
        print(f"recordings: {len(paths)} clips of ESC-10, joined")
        return [read_audio(path, RATES[0])[0] for path in paths]
    print(f"recordings: noise and tones, because {real_data()}/esc10 has no clips")
    dice, time = np.random.default_rng(0), np.arange(5 * RATES[0]) / RATES[0]
    return [np.sin(2 * np.pi * hertz * time) + dice.normal(0, 0.2, len(time)) for hertz in dice.uniform(100, 4000, 24)]


def write_recordings(folder: Path, sounds: list[np.ndarray], count: int, longest: float) -> Path:
    """Write recordings of evenly spread lengths; formats, rates and numbers of channels alternate."""
    folder.mkdir()
    dice, joined = np.random.default_rng(0), np.concatenate(sounds)
    for number, seconds in enumerate(dice.permutation(np.linspace(SHORTEST, longest, count))):
        rate, (name, subtype) = RATES[number // 4 % 4], list(FORMATS.items())[number % 4]
        start = int(dice.integers(len(joined)))
        sound = np.resize(np.roll(joined, -start)[: round(longest * RATES[0])], round(seconds * RATES[0]))
        sound = soxr.resample(PEAK * sound / np.abs(sound).max(), RATES[0], rate)
        channels = np.stack([sound, sound[::-1] / 2], 1) if number % 3 == 0 else sound
        soundfile.write(folder / f"{number:03d}.{name}", channels, rate, format=name.upper(), subtype=subtype)
    return folder


def by_command(name: str, sounds: Path, output: Path) -> dict[str, np.ndarray]:
    """Return our embeddings (N, D) by id."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        extract.main(["--encoder", name, "--input", str(sounds), "--output", str(output)])
    table = pq.read_table(output, columns=["creative_id", "embeddings_frames", "embeddings"])
    rows = zip(*(column.combine_chunks() for column in table.columns), strict=True)
    return {name.as_py(): values.values.to_numpy().reshape(count.as_py(), -1) for name, count, values in rows}


@torch.inference_mode()
def by_loop(encoder: Encoder, sounds: Path, batch: int) -> dict[str, np.ndarray]:
    """Return the peer's embeddings (N, D) by id."""
    config, rate, embeddings = encoder.model.config, encoder.extractor.sampling_rate, {}
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
        embeddings[path.name] = np.concatenate(parts)
    return embeddings


def largest_difference(ours: dict[str, np.ndarray], peers: dict[str, np.ndarray]) -> float:
    """Return the largest difference of embeddings of the same windows, relative for values above 1."""
    if ours.keys() != peers.keys():
        raise SystemExit(f"recordings differ: {sorted(ours)} and {sorted(peers)}")
    differences = [np.abs(ours[name] - peers[name]) / np.maximum(np.abs(peers[name]), 1) for name in ours]
    return float(max(each.max() for each in differences))


def compare_extraction(name: str, sounds: Path, folder: Path, rounds: int) -> tuple[dict[str, Timing], float]:
    """Return timings, and the largest difference between our embeddings and a peer's."""
    encoder, embeddings = encoder_once(name), {}

    def keep(rival: str, run: Callable[[], dict[str, np.ndarray]]) -> None:
        embeddings[rival] = run()

    def ours() -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory(dir=folder) as output:
            return by_command(name, sounds, Path(output))

    rivals = {
        "launch.extract": ours,
        "plain loop": partial(by_loop, encoder, sounds, 1),
        f"batches of {BATCH}": partial(by_loop, encoder, sounds, BATCH),
    }
    timings = compare({rival: partial(keep, rival, run) for rival, run in rivals.items()}, rounds, warmup=1)
    windows = [*map(len, embeddings["plain loop"].values())]
    print(f"\nextraction, {len(windows)} recordings, {sum(windows)} windows, 1 thread, torch {torch.__version__}")
    print_table(timings)
    difference = max(largest_difference(embeddings["launch.extract"], embeddings[rival]) for rival in [*rivals][1:])
    if not difference <= APART:
        raise SystemExit(f"embeddings differ by {difference:.2g}, more than {APART:g}")
    return timings, difference


def one_split(sounds: Path, encoder: Encoder) -> ClipWindows:
    """Return all windows of the recordings, as training scores them."""
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
    """Time the embedding of a split without and with cached embeddings; print a table."""
    model = EncoderForAudioClassification(EncoderConfig(encoder_config=encoder.model.config.to_diff_dict())).eval()
    model.encoder.load_state_dict(encoder.model.state_dict())
    windows = one_split(sounds, encoder)

    def embeddings() -> np.ndarray:
        with contextlib.redirect_stderr(io.StringIO()):
            return embed_side(windows, model, encoder.extractor).column("embeddings")

    with tempfile.TemporaryDirectory() as folder:

        def first_time() -> None:
            datasets.config.HF_DATASETS_CACHE = Path(tempfile.mkdtemp(dir=folder))
            embeddings()

        timings = compare({"first time": first_time, "cached": embeddings}, rounds, warmup=0)
    print(f"\na split of {len(windows)} windows in the cache of training")
    print_table(timings)
    return timings


def peak_memory(name: str, sounds: Path, output: Path) -> float:
    """Return the peak memory of the command in a fresh process, in MiB."""
    command = [sys.executable, "-m", "benchmarks.encoders", "--peak_memory_of", name, str(sounds), str(output)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory_by_count(name: str, sounds: list[np.ndarray], folder: Path, count: int) -> dict[int, float]:
    """Return the peak memory for `count` recordings and for four times as many (hard links); print a table."""
    few, many = write_recordings(folder / "few", sounds, count, SHORT), folder / "many"
    many.mkdir()
    for file in few.iterdir():
        for copy in range(4):
            os.link(file, many / f"{copy}-{file.name}")
    peaks = {n * count: peak_memory(name, inputs, folder / f"out{n}") for n, inputs in ((1, few), (4, many))}
    print("\npeak memory of the command")
    for recordings, peak in peaks.items():
        print(f"{recordings:4} recordings  {peak:.0f} MiB")
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more recordings, more rounds")
    parser.add_argument("--peak_memory_of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # one core each, so that rivals are comparable on any machine
    if options.peak_memory_of:
        name, sounds, output = options.peak_memory_of
        by_command(name, Path(sounds), Path(output))
        print(resident_bytes("VmHWM") / MEBIBYTE)  # not ru_maxrss, which starts at the parent's value
        return
    recordings, rounds, count = (60, 5, 64) if options.full else (8, 3, 16)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        name, sounds = find_encoder(folder), find_sounds()
        mixed = write_recordings(folder / "mixed", sounds, recordings, LONGEST)
        timings, difference = compare_extraction(name, mixed, folder, rounds)
        cache = compare_cache(mixed, encoder_once(name), rounds - 1)
        few, many = memory_by_count(name, sounds, folder, count).values()
    print()
    ours = timings["launch.extract"]
    print_value("extract_apart_from_plain_loop", difference, "of a value of 1")
    print_value("cache_hit", 1e3 * cache["cached"].median, "ms")
    print_value("extract_peak_memory", many, "MiB")
    print_value("extract_memory_growth", many - few, "MiB")
    print_ratio("extract_vs_plain_loop", ratio(timings["plain loop"], ours))
    print_ratio(f"extract_vs_batches_of_{BATCH}", ratio(timings[f"batches of {BATCH}"], ours))
    print_ratio("cache_hit_vs_compute", ratio(cache["first time"], cache["cached"]))


if __name__ == "__main__":
    main()
