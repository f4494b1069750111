"""Time that the training of a detector waits for sounds: `python -m benchmarks.waiting [settings of run_train.py]`.

Trains configs/baby_cry.json on its sample in three ways, in turn: each window decoded when needed, sounds decoded once
and kept (the default), and all sounds in memory before the first step. Prints the time of each training run, and that
of the default as a multiple of the last.
"""

import sys
import tempfile
import time

import numpy as np

from benchmarks.timing import print_value
from launch.run import parse_run
from training.build import build_model, build_trainer, set_up_process
from training.rows import load_rows

CONFIG = "configs/baby_cry.json"
MEMORY_GB = {"decoded_one_by_one": "0", "decoded_once": "1", "in_memory_before": "1"}  # way -> memory_gb
ROUNDS = 3


def train(way: str, folder: str, settings: list[str]) -> tuple[float, int]:
    """Return the seconds from the first step to the last checkpoint, and the number of steps."""
    quiet = ["--report_to", "none", "--disable_tqdm", "true", "--output_dir", folder, "--memory_gb", MEMORY_GB[way]]
    run = parse_run([CONFIG, *quiet, *settings])
    set_up_process(run)
    rows, _ = load_rows(run.arguments, run.task.columns, run.task.streamed)
    extractor = run.task.features(run)
    data = run.task.prepare(rows, extractor, run)
    model = build_model(run, run.task.model_settings(data, extractor, run))
    trainer = build_trainer(run, model, extractor, data)
    if way == "in_memory_before":
        for windows in (data.train, data.validation.windows):
            for item in np.unique(windows.items.clip, return_index=True)[1]:  # one window per clip
                windows.failure_of((int(item), 0))  # decodes the clip and keeps it
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start, trainer.state.global_step


def main() -> None:
    times: dict[str, list[float]] = {way: [] for way in MEMORY_GB}
    for _ in range(ROUNDS):
        for way, seconds in times.items():
            with tempfile.TemporaryDirectory() as folder:
                taken, steps = train(way, folder, sys.argv[1:])
            seconds.append(taken)
    medians = {way: float(np.median(seconds)) for way, seconds in times.items()}
    for way, median in medians.items():
        print_value(f"baby_cry_{way}", median, "s")
        print_value(f"baby_cry_{way}_step", 1e3 * median / steps, "ms")
    print_value("baby_cry_decoded_once_vs_in_memory", medians["decoded_once"] / medians["in_memory_before"], "times")


if __name__ == "__main__":
    main()
