"""Speed of log-mel features on clips of 10 s, compared with librosa and with transformers' numpy code.

    python -m benchmarks.features [--threads N] [--full]

All compute the same decibels, and the largest difference is printed. Only our float32 spectra are less exact, and have
separate lines. librosa runs clip by clip and in a batch, and the ratio uses the faster one. The ratio to transformers
uses `spectrogram`, clip by clip, which all its numpy feature extractors call (`spectrogram_batch` is in the table).
Settings are the extractor's defaults (music), and common ones for speech. Every rival may use all cores, as in a
user's program, but numpy's FFT always uses one. `--threads 1` limits torch and BLAS to one core; `--full` runs more
rounds.

The last table is the front end of prediction: a stereo file of three minutes at 44.1 kHz is decoded and resampled to
22.05 kHz, block by block, with and without features. PyAV decodes the mp3 without a length tag, libsndfile the other
files. The ratio is the speed with features divided by the speed without. The network's time has a separate line.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from threadpoolctl import threadpool_limits
from transformers.audio_utils import mel_filter_bank, spectrogram, spectrogram_batch, window_function

from benchmarks.timing import Timing, compare, print_ratio, print_table, print_value, ratio
from media.audio import read_audio_blocks
from modeling import TcnConfig, TcnForSignalRegression
from modeling.feature_extraction_audio import AudioFeatureExtractor

CLIPS = 8
SECONDS = 10
MUSIC = {}  # the extractor's defaults
MINUTES, FILE_RATE = 3, 44100  # min and Hz of the files to predict
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
SPEECH = {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "num_mel_bins": 80}


def make_clips(rate: int) -> np.ndarray:
    """Make clips (CLIPS, samples) float32 of a chord and noise that gets quieter."""
    time = np.arange(rate * SECONDS) / rate
    noise = np.random.default_rng(0).normal(0, 0.1, (CLIPS, len(time))) * 10 ** (-time / SECONDS)
    chord = sum(0.1 * np.sin(2 * np.pi * hertz * time) for hertz in (220.0, 277.2, 329.6))
    return (noise + chord).astype(np.float32)


def librosa_log_mel(audio: np.ndarray, extractor: AudioFeatureExtractor) -> np.ndarray:
    """Return dB (..., M, K) of sound (..., S)."""
    power = librosa.feature.melspectrogram(
        y=audio, sr=extractor.sampling_rate, n_fft=extractor.n_fft, hop_length=extractor.hop_length,
        n_mels=extractor.num_mel_bins, pad_mode="constant",
    )  # fmt: skip
    return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)


def make_rivals(options: dict) -> dict:
    """Return functions by name that compute dB: (B, K, M) for ours, otherwise (B, M, K)."""
    exact = AudioFeatureExtractor(frame_rate=None, **options)
    single = AudioFeatureExtractor(frame_rate=None, double_precision=False, **options)
    pooled = AudioFeatureExtractor(**options)
    rate = exact.sampling_rate
    clips = make_clips(rate)
    hf_settings = {
        "window": window_function(exact.n_fft, "hann"), "frame_length": exact.n_fft, "hop_length": exact.hop_length,
        "fft_length": exact.n_fft, "power": 2.0, "pad_mode": "constant", "log_mel": "dB",
        "mel_filters": mel_filter_bank(
            exact.n_fft // 2 + 1, exact.num_mel_bins, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney"
        ),
    }  # fmt: skip
    return {
        "feltsound, pooled to 4 Hz": lambda: pooled(clips, sampling_rate=rate)["input_features"].numpy(),
        "feltsound": lambda: exact(clips, sampling_rate=rate)["input_features"].numpy(),
        "feltsound, float32 spectra": lambda: single(clips, sampling_rate=rate)["input_features"].numpy(),
        "librosa, clip by clip": lambda: np.stack([librosa_log_mel(clip, exact) for clip in clips]),
        "librosa, batch": lambda: librosa_log_mel(clips, exact),
        "transformers_numpy, clip by clip": lambda: np.stack([spectrogram(clip, **hf_settings) for clip in clips]),
        "transformers_numpy, batch": lambda: np.stack(spectrogram_batch(list(clips), **hf_settings)),
    }


def measure(options: dict, threads: int, rounds: int) -> tuple[dict[str, Timing], dict[str, float]]:
    """Return the timings of all rivals, and the largest difference of our features to each peer's, in dB."""
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        rivals = make_rivals(options)
        ours = rivals["feltsound"]()
        differences = {
            peer: float(np.abs(rivals[f"{peer}, clip by clip"]().transpose(0, 2, 1) - ours).max())
            for peer in ("librosa", "transformers_numpy")
        }
        return compare(rivals, rounds=rounds), differences


def write_files(folder: Path) -> dict[str, Path]:
    """Write the same sound in all formats; return paths by name."""
    sound = np.tile(make_clips(FILE_RATE)[0], 60 * MINUTES // SECONDS)
    files = {}
    for name, subtype in FORMATS.items():
        files[name] = folder / f"sound.{name}"
        with soundfile.SoundFile(files[name], "w", FILE_RATE, 2, subtype, format=name.upper()) as file:
            for start in range(
                0, len(sound), FILE_RATE
            ):  # in short blocks: libsndfile's vorbis encoder fails on long ones
                file.write(np.stack([sound[start : start + FILE_RATE]] * 2, axis=1))
    # The Xing tag has the length of an mp3. Without it, readers cannot know where the sound ends.
    files["mp3_untagged"] = folder / "untagged.mp3"
    files["mp3_untagged"].write_bytes(files["mp3"].read_bytes().replace(b"Xing", bytes(4), 1))
    return files


def measure_prediction(threads: int, rounds: int) -> list[tuple]:
    """Print a table; return the lines for scripts."""
    extractor, lines = AudioFeatureExtractor(), []
    rate = extractor.sampling_rate
    model = TcnForSignalRegression(TcnConfig(input_size=extractor.feature_size)).eval()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(threads):
        files = write_files(Path(folder))
        rivals = {}
        for name, path in files.items():
            rivals[f"{name}, decoded"] = partial(exhaust, lambda path=path: read_audio_blocks(path, rate))
            rivals[f"{name}, features"] = partial(
                exhaust, lambda path=path: extractor.stream(read_audio_blocks(path, rate), rate)
            )
        features = list(extractor.stream(read_audio_blocks(files["wav"], rate), rate))
        rivals["network"] = partial(exhaust, lambda: model.predict_blocks(features))
        timings = compare(rivals, rounds, warmup=1)
    print(f"\nprediction of {MINUTES} minutes, {threads} thread(s)")
    print_table(timings)
    for name in files:
        share = ratio(timings[f"{name}, decoded"], timings[f"{name}, features"])
        lines.append((print_ratio, f"predict_{name}_vs_decode", share))
    lines.append((print_value, "predict_network", timings["network"].median / MINUTES, "s per minute of sound"))
    return lines


def exhaust(make: Callable[[], Iterable]) -> None:
    for _ in make():
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for each rival; default: all")
    parser.add_argument("--full", action="store_true", help="three times as many rounds")
    arguments = parser.parse_args()
    threads, lines = arguments.threads, []
    for suffix, options in (("", MUSIC), ("_speech", SPEECH)):
        timings, differences = measure(options, threads, rounds=61 if arguments.full else 21)
        extractor = AudioFeatureExtractor(**options)
        print(
            f"\n{CLIPS} clips of {SECONDS} s at {extractor.sampling_rate} Hz, n_fft {extractor.n_fft}, hop "
            f"{extractor.hop_length}, {extractor.num_mel_bins} mel bands, {threads} thread(s)"
        )
        print_table(timings)
        ours, single = timings["feltsound"], timings["feltsound, float32 spectra"]
        librosas = [timings["librosa, clip by clip"], timings["librosa, batch"]]
        peers = {
            "librosa": min(librosas, key=lambda timing: timing.median),
            "transformers_numpy": timings["transformers_numpy, clip by clip"],
        }
        for name, peer in peers.items():
            lines.append((print_ratio, f"logmel_vs_{name}{suffix}", ratio(peer, ours)))
            lines.append((print_ratio, f"logmel_float32_vs_{name}{suffix}", ratio(peer, single)))
            lines.append((print_value, f"logmel_apart_from_{name}{suffix}", differences[name], "dB"))
    lines += measure_prediction(threads, rounds=15 if arguments.full else 5)
    print()
    print_value("logmel_threads", threads, "threads")
    for show, *line in lines:
        show(*line)


if __name__ == "__main__":
    main()
