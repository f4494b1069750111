"""Training steps of our models against a public peer and against the machine: `python -m benchmarks.models`.

TCN: batch 8, 80 features -> 8 blocks of 64 channels, kernel 3, 1024 frames, weight norm and dropout 0.1, non-causal,
for ours and for pytorch-tcn. A step is forward, mean squared error, backward and fused AdamW. The floor is one square
matrix product of as many operations as the step's matrix products and convolutions have (counted, forward and
backward). On a CPU in float32; with `--device cuda` compiled and in bfloat16, the floor too.

Memory is what a fresh process needs on top of model, data and libraries: the high-water mark of its resident set
(Linux) over ten steps, less the resident set after a step on a few frames. On a GPU it is torch's peak of allocated
memory.
"""

import argparse
import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import compare, print_ratio, print_table, print_value, ratio
from modeling import TcnConfig, TcnForSignalRegression

BATCH, FRAMES, FEATURES, CHANNELS, BLOCKS, KERNEL, DROPOUT = 8, 1024, 80, 64, 8, 3, 0.1
WARM_FRAMES = 16  # enough to load every library before memory is measured
MEBIBYTE = 2**20  # bytes


class PeerRegression(nn.Module):
    """pytorch-tcn with our head and loss."""

    def __init__(self) -> None:
        from pytorch_tcn import TCN

        super().__init__()
        channels = [CHANNELS] * BLOCKS
        self.tcn = TCN(FEATURES, channels, KERNEL, dropout=DROPOUT, causal=False, use_norm="weight_norm")
        self.head = nn.Linear(CHANNELS, 1)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, T, F) and (B, T, 1) to the loss."""
        return F.mse_loss(self.head(self.tcn(features.transpose(1, 2)).transpose(1, 2)), labels)


class OurRegression(nn.Module):
    """Our TCN, called as the Trainer calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TcnForSignalRegression(
            TcnConfig(
                input_size=FEATURES, num_channels=CHANNELS, num_blocks=BLOCKS, kernel_size=KERNEL, dropout=DROPOUT
            )
        ).train()

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, T, F) and (B, T, 1) to the loss."""
        return self.model(features, labels=labels).loss


RIVALS = {"feltsound": OurRegression, "pytorch-tcn": PeerRegression}


def training_step(name: str, device: str) -> Callable[[int], None]:
    """A function that trains a new model for one step on so many frames of noise."""
    torch.manual_seed(0)
    model = RIVALS[name]().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    forward = torch.compile(model) if device == "cuda" else model
    data = torch.randn(BATCH, FRAMES, FEATURES, device=device), torch.randn(BATCH, FRAMES, 1, device=device)

    def step(frames: int = FRAMES) -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16) if device == "cuda" else contextlib.nullcontext():
            loss = forward(data[0][:, :frames], data[1][:, :frames])
        loss.backward()
        optimizer.step()

    return step


def matrix_product(flops: int, device: str) -> Callable[[], torch.Tensor]:
    """One square matrix product of so many floating-point operations."""
    size = round((flops / 2) ** (1 / 3))
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    return lambda: left @ right


def resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (its highest so far) of this process."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1))


def peak_memory(name: str, device: str) -> int:
    """Bytes that ten steps need on top of what is there before."""
    step = training_step(name, device)
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


def peak_memory_of_child(name: str, device: str) -> int:
    """The same in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.models", "--device", device, "--peak_memory_of", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--full", action="store_true", help="four times as many rounds")
    parser.add_argument("--peak_memory_of", choices=RIVALS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device, suffix = options.device, "" if options.device == "cpu" else "_cuda"
    if options.peak_memory_of:
        print(peak_memory(options.peak_memory_of, device))
        return

    with FlopCounterMode(display=False) as counter:
        training_step("feltsound", "cpu")(FRAMES)
    flops = counter.get_total_flops()
    rivals = {name: training_step(name, device) for name in RIVALS}
    rivals["matrix product"] = matrix_product(flops, device)
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    timings = compare(rivals, rounds=100 if options.full else 25, warmup=5, synchronize=synchronize)
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"TCN training step, {flops / 1e9:.2f} GFLOP, {machine}, torch {torch.__version__}")
    print_table(timings)
    memory = {name: peak_memory_of_child(name, device) for name in RIVALS}

    print_value(f"tcn_train_step{suffix}", 1e3 * timings["feltsound"].median, "ms")
    for name, peak in memory.items():
        print_value(f"tcn_peak_memory{suffix}_{name}", peak / MEBIBYTE, "MiB")
    print_ratio(f"tcn_train_step_vs_pytorch_tcn{suffix}", ratio(timings["pytorch-tcn"], timings["feltsound"]))
    print_ratio(f"tcn_train_step_vs_gemm_floor{suffix}", ratio(timings["matrix product"], timings["feltsound"]))
    print_ratio(f"tcn_peak_memory_vs_pytorch_tcn{suffix}", memory["pytorch-tcn"] / memory["feltsound"])


if __name__ == "__main__":
    main()
