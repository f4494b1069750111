"""Training steps of our models against peers and the hardware, and long recordings: `python -m benchmarks.models`.

TCN: batch 8, 80 features -> 8 blocks of 64 channels, kernel 3, 1024 frames, weight norm and dropout 0.1, non-causal,
for ours and for pytorch-tcn. WaveNet: the same batch through 2 stacks of 6 layers with 64 residual and 64 skip
channels, for ours and for a textbook implementation (peers.py). A step is forward, mean squared error, backward and
fused AdamW. The floor is one square matrix product with as many operations as the matrix products and convolutions of
the TCN step (counted, forward and backward). On a CPU all run in float32; with `--device cuda` compiled and in
bfloat16, including the floor.

Memory is what a fresh process needs on top of model, data and libraries: the peak of its resident set (Linux) over ten
steps, minus the resident set after a step on a few frames. On a GPU it is torch's peak of allocated memory.

A long recording is noise in a 16-bit wav file, which is decoded at 44.1 kHz, resampled, and predicted by log-mel and
the TCN at 4 Hz. Its memory is the peak of the resident set minus that after ten seconds of sound.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from benchmarks.peers import PytorchTcn, TextbookWavenet
from benchmarks.timing import compare, print_ratio, print_table, print_value, ratio
from modeling import (
    AudioFeatureExtractor,
    TcnConfig,
    TcnForSignalRegression,
    WavenetConfig,
    WavenetForSignalRegression,
)

WARM_FRAMES = 16  # enough to load all libraries before memory is measured
MEBIBYTE = 2**20  # bytes
SOUND_RATE = 44100  # Hz
WARM_SECONDS, SHORT, LONGER, LONG = 10, 60, 1200, 7200  # s of sound


@dataclass(frozen=True)
class Size:
    """Sizes of a batch of noise and of the models that are trained on it."""

    batch: int = 8
    frames: int = 1024
    features: int = 80
    channels: int = 64
    blocks: int = 8  # of the TCN
    stacks: int = 2  # of the WaveNet
    layers: int = 6  # of a stack
    kernel: int = 3
    dropout: float = 0.1

    def noise(self, device: str) -> dict[str, torch.Tensor]:
        """Make a batch: features (B, T, F) and labels (B, T, 1)."""
        features = torch.randn(self.batch, self.frames, self.features, device=device)
        return {"input_features": features, "labels": torch.randn(self.batch, self.frames, 1, device=device)}


class Ours(nn.Module):
    """Wrap one of our models to return the loss."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.train()

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        return self.model(**batch).loss


def our_tcn(size: Size) -> Ours:
    config = TcnConfig(
        input_size=size.features, num_channels=size.channels, num_blocks=size.blocks, kernel_size=size.kernel,
        dropout=size.dropout,
    )  # fmt: skip
    return Ours(TcnForSignalRegression(config))


def our_wavenet(size: Size) -> Ours:
    config = WavenetConfig(
        input_channels=size.features, num_stacks=size.stacks, num_layers_per_stack=size.layers,
        residual_channels=size.channels, skip_channels=size.channels, kernel_size=size.kernel,
        dropout_rate=size.dropout,
    )  # fmt: skip
    return Ours(WavenetForSignalRegression(config))


def pytorch_tcn(size: Size) -> PytorchTcn:
    return PytorchTcn(size.features, size.channels, size.blocks, size.kernel, size.dropout)


def textbook_wavenet(size: Size) -> TextbookWavenet:
    channels = size.channels
    return TextbookWavenet(size.features, channels, channels, size.stacks, size.layers, size.kernel, size.dropout)


RIVALS: dict[str, Callable[[Size], nn.Module]] = {
    "tcn": our_tcn,
    "tcn_peer": pytorch_tcn,
    "wavenet": our_wavenet,
    "wavenet_peer": textbook_wavenet,
}


def training_step(model: nn.Module, bf16: bool = False) -> Callable[[dict[str, torch.Tensor]], None]:
    """Return a function that trains a model for one step; the model must return its loss on a batch."""
    device = next(model.parameters()).device.type
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(batch: dict[str, torch.Tensor]) -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = model(**batch)
        loss.backward()
        optimizer.step()

    return step


def new_step(name: str, device: str) -> Callable[..., None]:
    """Return a function that trains a new model for one step on noise; on a GPU compiled and in bfloat16."""
    torch.manual_seed(0)
    model, batch, gpu = RIVALS[name](Size()).to(device), Size().noise(device), device == "cuda"
    step = training_step(torch.compile(model) if gpu else model, bf16=gpu)
    return lambda frames=Size.frames: step({name: value[:, :frames] for name, value in batch.items()})


def matrix_product(flops: int, device: str, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """Return a function that computes one square matrix product with this number of floating-point operations."""
    size = round((flops / 2) ** (1 / 3))
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    return lambda: left @ right


def resident_bytes(field: str) -> int:
    """Return VmRSS (current) or VmHWM (peak) of this process, in bytes."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1))


def peak_memory(name: str, device: str) -> int:
    """Return the bytes that ten steps need on top of the memory before."""
    step = new_step(name, device)
    if device == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        step(WARM_FRAMES)
        before = resident_bytes("VmRSS")
    for _ in range(10):
        step()
    return (torch.cuda.max_memory_allocated() if device == "cuda" else resident_bytes("VmHWM")) - before


def write_noise(path: Path, seconds: int) -> None:
    """Write a 16-bit wav of noise, one second at a time."""
    import soundfile  # imported here, because benchmarks.gpu uses this module without soundfile

    dice = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", SOUND_RATE, 1, "PCM_16") as file:
        for _ in range(seconds):
            file.write(dice.normal(0, 0.1, SOUND_RATE).astype(np.float32))


def predict_file(path: Path, model: PreTrainedModel, extractor: AudioFeatureExtractor) -> int:
    """Predict a file block by block and return the number of predictions."""
    from media.audio import read_audio_blocks

    features = extractor.stream(read_audio_blocks(path, extractor.sampling_rate), extractor.sampling_rate)
    return sum(part.predictions.shape[1] for part in model.predict_blocks(features))


def long_form(seconds: int) -> tuple[float, int]:
    """Return seconds of sound predicted per second, and the bytes needed on top of those for ten seconds of sound."""
    model, extractor = our_tcn(Size()).model.eval(), AudioFeatureExtractor(num_mel_bins=Size.features)
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "short.wav", Path(folder) / "long.wav"
        write_noise(short, WARM_SECONDS)
        write_noise(long, seconds)
        predict_file(short, model, extractor)
        before = resident_bytes("VmRSS")
        start = time.perf_counter()
        frames = predict_file(long, model, extractor)
        taken = time.perf_counter() - start
        assert frames == extractor.num_frames(seconds * extractor.sampling_rate)
    return seconds / taken, resident_bytes("VmHWM") - before


def in_child(*options: object) -> list[str]:
    """Run this program with hidden options in a fresh process, and return its output."""
    command = [sys.executable, "-m", "benchmarks.models", *map(str, options)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--full", action="store_true", help="four times as many rounds")
    parser.add_argument("--peak_memory_of", choices=RIVALS, help=argparse.SUPPRESS)
    parser.add_argument("--long_form", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device, suffix = options.device, "" if options.device == "cpu" else "_cuda"
    if options.peak_memory_of:
        print(peak_memory(options.peak_memory_of, device))
        return
    if options.long_form:
        print(*long_form(options.long_form))
        return

    with FlopCounterMode(display=False) as counter:
        new_step("tcn", "cpu")()
    flops = counter.get_total_flops()
    rivals = {name: new_step(name, device) for name in RIVALS}
    rivals["matrix product"] = matrix_product(flops, device, torch.bfloat16 if device == "cuda" else torch.float32)
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    timings = compare(rivals, rounds=80 if options.full else 20, warmup=5, synchronize=synchronize)
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"training steps, TCN {flops / 1e9:.2f} GFLOP, {machine}, torch {torch.__version__}")
    print_table(timings)
    memory = {name: int(in_child("--device", device, "--peak_memory_of", name)[-1]) for name in RIVALS}

    print_value(f"tcn_train_step{suffix}", 1e3 * timings["tcn"].median, "ms")
    print_value(f"wavenet_train_step{suffix}", 1e3 * timings["wavenet"].median, "ms")
    for name, peak in memory.items():
        print_value(f"{name}_peak_memory{suffix}", peak / MEBIBYTE, "MiB")
    print_ratio(f"tcn_train_step_vs_pytorch_tcn{suffix}", ratio(timings["tcn_peer"], timings["tcn"]))
    print_ratio(f"tcn_train_step_vs_gemm_floor{suffix}", ratio(timings["matrix product"], timings["tcn"]))
    print_ratio(f"tcn_peak_memory_vs_pytorch_tcn{suffix}", memory["tcn_peer"] / memory["tcn"])
    print_ratio(f"wavenet_train_step_vs_textbook{suffix}", ratio(timings["wavenet_peer"], timings["wavenet"]))
    print_ratio(f"wavenet_peak_memory_vs_textbook{suffix}", memory["wavenet_peer"] / memory["wavenet"])
    if device == "cpu":
        _, short = map(float, in_child("--long_form", SHORT))
        _, longer = map(float, in_child("--long_form", LONGER))
        factor, long = map(float, in_child("--long_form", LONG))
        print_value("realtime_factor", factor, "s of sound per second")
        print_value("long_form_peak_memory_1_min", short / MEBIBYTE, "MiB")
        print_value("long_form_peak_memory_20_min", longer / MEBIBYTE, "MiB")
        print_value("long_form_peak_memory_2_h", long / MEBIBYTE, "MiB")


if __name__ == "__main__":
    main()
