"""How fast is log-mel? Ours in a batch against librosa and against transformers' numpy path, on clips of 10 s.

    python -m benchmarks.features [--threads N] [--full]

All compute the same decibels; how far apart they are is printed. Only ours with float32 spectra does less exact work,
and has lines of its own. librosa runs clip by clip and in a batch, and the ratio is to the faster; transformers' ratio
is to `spectrogram`, clip by clip, which all its numpy feature extractors call (`spectrogram_batch` is in the table).
Settings are the extractor's own, for music, and what is usual for speech. Everyone may use all cores, as a user's
program would; numpy's FFT takes one whatever is allowed. `--threads 1` is a core against a core and bounds torch and
BLAS alike; `--full` runs more rounds.
"""

import argparse

import librosa
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from transformers.audio_utils import mel_filter_bank, spectrogram, spectrogram_batch, window_function

from benchmarks.timing import Timing, compare, print_ratio, print_table, print_value, ratio
from modeling.feature_extraction_audio import AudioFeatureExtractor

CLIPS = 8
SECONDS = 10
MUSIC = {}  # the extractor's own settings
SPEECH = {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "num_mel_bins": 80}


def make_clips(rate: int) -> np.ndarray:
    """(CLIPS, samples) float32: noise that gets quieter over a chord."""
    time = np.arange(rate * SECONDS) / rate
    noise = np.random.default_rng(0).normal(0, 0.1, (CLIPS, len(time))) * 10 ** (-time / SECONDS)
    chord = sum(0.1 * np.sin(2 * np.pi * hertz * time) for hertz in (220.0, 277.2, 329.6))
    return (noise + chord).astype(np.float32)


def librosa_log_mel(audio: np.ndarray, extractor: AudioFeatureExtractor) -> np.ndarray:
    """dB (..., M, K) of sound (..., S)."""
    power = librosa.feature.melspectrogram(
        y=audio, sr=extractor.sampling_rate, n_fft=extractor.n_fft, hop_length=extractor.hop_length,
        n_mels=extractor.num_mel_bins, pad_mode="constant",
    )  # fmt: skip
    return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)


def make_rivals(options: dict) -> dict:
    """Name -> a function without arguments that gives dB: (B, K, M) for ours, else (B, M, K)."""
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
    """Timings of all rivals, and how far ours is from each peer at most, in dB."""
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        rivals = make_rivals(options)
        ours = rivals["feltsound"]()
        apart = {
            peer: float(np.abs(rivals[f"{peer}, clip by clip"]().transpose(0, 2, 1) - ours).max())
            for peer in ("librosa", "transformers_numpy")
        }
        return compare(rivals, rounds=rounds), apart


def main() -> None:
    """Print a table a setting, then the lines for scripts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for each rival; default: all")
    parser.add_argument("--full", action="store_true", help="three times as many rounds")
    arguments = parser.parse_args()
    threads, lines = arguments.threads, []
    for suffix, options in (("", MUSIC), ("_speech", SPEECH)):
        timings, apart = measure(options, threads, rounds=61 if arguments.full else 21)
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
            lines.append((print_value, f"logmel_apart_from_{name}{suffix}", apart[name], "dB"))
    print()
    print_value("logmel_threads", threads, "threads")
    for show, *line in lines:
        show(*line)


if __name__ == "__main__":
    main()
