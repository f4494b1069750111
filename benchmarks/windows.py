"""Speed of reading windows of 1 s by seeking, compared with decoding whole files: `python -m benchmarks.windows`.

Files are mono, 10 s long, at 32 kHz: 24 recordings of ESC-10, joined in pairs (or noise and tones if ESC-10 is
missing; the output tells which), as wav, flac, ogg (vorbis) and mp3, in the page cache. Windows of 1 s at the same
positions are read in turn by `media.audio.read_window`, by decoding the whole file and cutting it (our `read_audio`,
and soundfile alone), by `librosa.load(offset, duration)`, and by the Audio feature of `datasets` if torchcodec can be
imported. All return the file's rate; lines with `_16khz` are the same, resampled to 16 kHz, as a detector reads them.
A last table counts the windows of ours and of librosa that differ from the samples of the whole file.

The loader is torch's, with 2 workers and batches of 32 from the flac files at 16 kHz, with and without log-mel in the
workers. The peer's data set decodes and resamples a whole file and cuts it, which is the common way; its batches are
made by the same collator. Each uses one thread; `--full` runs more rounds.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
import librosa
import numpy as np
import pyarrow as pa
import soundfile
import soxr
import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset

from benchmarks.esc10_tree import real_data
from benchmarks.timing import compare, print_ratio, print_table, print_value, ratio
from media.audio import read_audio, read_window
from modeling.feature_extraction_audio import AudioFeatureExtractor
from tasks.detection.collator import DetectionCollator
from tasks.detection.items import Items, Kind
from tasks.detection.windows import AudioSetWindows

RATE, NEW_RATE = 32000, 16000  # Hz of the files, and of a detector
CLIPS, SECONDS, WINDOW = 12, 10, 1.0  # s
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
CHECKED = 20  # windows per file that are compared with the whole file
APART = 1e-3  # of full scale; a window that differs more from the whole file is wrong
BATCH, BATCHES, WORKERS = 32, 8, 2  # windows per batch, batches per round, loader processes
LOG_MEL = {"sampling_rate": NEW_RATE, "n_fft": 512, "hop_length": 320, "num_mel_bins": 64, "frame_rate": None}


def make_sounds() -> list[np.ndarray]:
    """Return CLIPS sounds (samples,) of SECONDS; print where they come from."""
    recordings = sorted((real_data() / "esc10").glob("*/*.ogg"))
    if recordings:
        chosen = [recordings[i] for i in np.linspace(0, len(recordings) - 1, 2 * CLIPS).astype(int)]
        halves = [np.resize(read_audio(path, RATE)[0], RATE * SECONDS // 2) for path in chosen]
        print(f"{CLIPS} files of real sound (ESC-10, two recordings per file)")
        return [np.concatenate(halves[i : i + 2]).clip(-1, 1) for i in range(0, 2 * CLIPS, 2)]
    print(f"{CLIPS} files of noise and tones, because {real_data()}/esc10 has no recordings")
    dice, time = np.random.default_rng(0), np.arange(RATE * SECONDS) / RATE
    tones = [0.3 * np.sin(2 * np.pi * hertz * time) for hertz in dice.uniform(100, 4000, CLIPS)]
    return [(tone * (time % 1) + dice.normal(0, 0.05, len(time))).astype(np.float32) for tone in tones]


def write_files(folder: Path, sounds: list[np.ndarray]) -> dict[str, list[Path]]:
    """Write the sounds in all formats; return paths by format."""
    files: dict[str, list[Path]] = {name: [] for name in FORMATS}
    for name, subtype in FORMATS.items():
        for number, sound in enumerate(sounds):
            path = folder / f"{number:02d}.{name}"
            soundfile.write(path, sound, RATE, format=name.upper(), subtype=subtype)
            files[name].append(path)
    return files


def by_window(path: Path, start: float, rate: int) -> np.ndarray:
    return read_window(path, start, WINDOW, rate)


def by_full_decode(path: Path, start: float, rate: int) -> np.ndarray:
    """Read the whole file with our reader and cut it."""
    audio, _ = read_audio(path, rate)
    return audio[round(start * rate) :][: round(WINDOW * rate)]


def by_soundfile(path: Path, start: float, rate: int) -> np.ndarray:
    """Read the whole file with soundfile and cut it."""
    audio, native = soundfile.read(path, dtype="float32")
    audio = audio if native == rate else soxr.resample(audio, native, rate)
    return audio[round(start * rate) :][: round(WINDOW * rate)]


def by_librosa(path: Path, start: float, rate: int) -> np.ndarray:
    return librosa.load(path, sr=rate, offset=start, duration=WINDOW)[0]


def by_datasets(path: Path, start: float, rate: int) -> np.ndarray:
    """Decode a row of `datasets` and cut it."""
    decoder = datasets.Audio(sampling_rate=rate, num_channels=1).decode_example({"path": str(path), "bytes": None})
    return decoder.get_samples_played_in_range(start, start + WINDOW).data[0].numpy()


READERS = {"window": by_window, "full decode": by_full_decode, "librosa": by_librosa}


def make_rivals() -> dict[str, Callable[[Path, float, int], np.ndarray]]:
    """Return readers of one window by name: (path, start in s, rate in Hz) -> (samples,)."""
    rivals = READERS | {"soundfile": by_soundfile}
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # OSError or RuntimeError: FFmpeg is missing
        print(f"datasets' Audio is left out: torchcodec cannot be imported ({str(error).splitlines()[0]})")
        return rivals
    return rivals | {"datasets": by_datasets}


def share_of_wrong_windows(read: Callable, paths: list[Path], rate: int) -> float:
    """Return the share of windows at random positions that differ from the whole file."""
    wrong = []
    for number, path in enumerate(paths):
        whole, _ = read_audio(path, rate)
        starts = np.random.default_rng(number).uniform(0, SECONDS - WINDOW, CHECKED)
        starts[-1] = SECONDS - WINDOW  # the last window of each file is at its end
        for start in (starts * rate).astype(int) / rate:
            window, first = read(path, float(start), rate), round(start * rate)
            expected = whole[first : first + round(WINDOW * rate)]
            wrong.append(len(window) != len(expected) or np.abs(window - expected).max() > APART)
    return float(np.mean(wrong))


def compare_readers(files: dict[str, list[Path]], rate: int, rounds: int) -> list[tuple]:
    """Print tables; return the lines for scripts."""
    lines, suffix = [], "" if rate == RATE else f"_{rate // 1000}khz"
    rivals = make_rivals() if rate == RATE else READERS
    starts = np.random.default_rng(0).uniform(0, SECONDS - WINDOW, CLIPS)
    for name, paths in files.items():

        def read_all(read: Callable, paths: list[Path] = paths) -> None:
            for path, start in zip(paths, starts.tolist(), strict=True):
                read(path, start, rate)

        timings = compare({rival: partial(read_all, read) for rival, read in rivals.items()}, rounds)
        print(f"\n{name}: {CLIPS} windows of {WINDOW:g} s at {rate} Hz")
        print_table(timings)
        for rival in (rival for rival in rivals if rival != "window"):
            line = f"window_vs_{rival.replace(' ', '_')}_{name}{suffix}"
            lines.append((print_ratio, line, ratio(timings[rival], timings["window"])))
    return lines


class WholeFiles(Dataset):
    """The peer: decode a file, resample it and cut a window from it."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        number, seed = item
        start = np.random.default_rng(seed).uniform(0, SECONDS - WINDOW)
        audio = by_soundfile(self.paths[number], start, NEW_RATE)
        return {"audio": audio, "label": 0.0, "item": number, "requested": number, "seed": seed}


def our_windows(paths: list[Path]) -> AudioSetWindows:
    """Return the same files as weakly labelled clips."""
    features = datasets.Features({"clip_id": datasets.Value("string"), "audio": datasets.Audio(decode=False)})
    columns = {"clip_id": [path.stem for path in paths], "audio": [{"bytes": None, "path": str(p)} for p in paths]}
    rows = datasets.Dataset(pa.table(columns, schema=features.arrow_schema))
    anywhere, count = np.full(len(paths), np.nan, np.float32), len(paths)
    kinds = np.full(count, Kind.WEAK, np.int8)
    items = Items(np.arange(count, dtype=np.int32), anywhere, anywhere, kinds, np.zeros(count, np.int16))
    return AudioSetWindows(rows, items, WINDOW, NEW_RATE)


def sounds_only(items: list[dict]) -> torch.Tensor:
    """Collate sounds (B, S) without features."""
    return torch.from_numpy(np.stack([item["audio"] for item in items]))


def compare_loaders(paths: list[Path], rounds: int) -> list[tuple]:
    """Print a table; return the lines for scripts."""
    dice = np.random.default_rng(0)
    drawn = dice.integers(len(paths), size=(BATCHES, BATCH)), dice.integers(2**62, size=(BATCHES, BATCH))
    plan = [list(zip(items.tolist(), seeds.tolist(), strict=True)) for items, seeds in zip(*drawn, strict=True)]
    log_mel = DetectionCollator(AudioFeatureExtractor(**LOG_MEL))
    sources = {"feltsound": our_windows(paths), "full decode": WholeFiles(paths)}
    loaders = {
        f"{name}{features}": DataLoader(
            source, batch_sampler=plan, num_workers=WORKERS, persistent_workers=True, collate_fn=collate
        )
        for name, source in sources.items()
        for features, collate in (("", sounds_only), (", log-mel", log_mel))
    }
    timings = compare({name: partial(exhaust, loader) for name, loader in loaders.items()}, rounds, warmup=1)
    print(f"\nloaders: {BATCHES} batches of {BATCH} windows at {NEW_RATE} Hz from flac, {WORKERS} workers")
    print_table(timings)
    lines = []
    for features, suffix in (("", ""), (", log-mel", "_log_mel")):
        ours, peer = timings[f"feltsound{features}"], timings[f"full decode{features}"]
        speed = BATCHES * BATCH / ours.median
        lines.append((print_value, f"loader_windows_per_second{suffix}", speed, "windows/s"))
        lines.append((print_ratio, f"loader_vs_full_decode{suffix}", ratio(peer, ours)))
    return lines


def exhaust(loader: DataLoader) -> None:
    for _ in loader:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="three times as many rounds")
    rounds = 21 if parser.parse_args().full else 7
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        files = write_files(Path(folder), make_sounds())
        lines = compare_readers(files, RATE, rounds) + compare_readers(files, NEW_RATE, rounds)
        print("\nwindows that differ from the whole file (at the file's rate)")
        for name, paths in files.items():
            ours, peer = (100 * share_of_wrong_windows(read, paths, RATE) for read in (by_window, by_librosa))
            print(f"{name:4}  window {ours:.1f} %, librosa {peer:.1f} %")
            lines.append((print_value, f"wrong_windows_{name}", ours, "%"))
            lines.append((print_value, f"wrong_windows_librosa_{name}", peer, "%"))
        lines += compare_loaders(files["flac"], rounds // 2)
    print()
    for show, *line in lines:
        show(*line)


if __name__ == "__main__":
    main()
