"""How long a detector's training waits for its sounds: `python -m benchmarks.waiting [settings of run_train.py]`.

Trains configs/baby_cry.json on its sample in turn with windows decoded one by one, with sounds decoded once and kept
(the default), and with all sounds in memory before the first step. Prints the time of each training, and the default's
as a multiple of the last.
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
KINDS = {"decoded_one_by_one": "0", "decoded_once": "1", "in_memory_before": "1"}  # -> memory_gb
ROUNDS = 3


def train(kind: str, folder: str, settings: list[str]) -> tuple[float, int]:
    """Seconds from the first step to the last checkpoint, and the number of steps."""
    quiet = ["--report_to", "none", "--disable_tqdm", "true", "--output_dir", folder, "--memory_gb", KINDS[kind]]
    run = parse_run([CONFIG, *quiet, *settings])
    set_up_process(run)
    rows, _ = load_rows(run.arguments, run.task.columns, run.task.streamed)
    extractor = run.task.features(run)
    data = run.task.prepare(rows, extractor, run)
    model = build_model(run, run.task.model_settings(data, extractor, run))
    trainer = build_trainer(run, model, extractor, data)
    if kind == "in_memory_before":
        for windows in (data.train, data.validation.windows):
            for item in np.unique(windows.items.clip, return_index=True)[1]:
                windows.failure_of((int(item), 0))
    begin = time.perf_counter()
    trainer.train()
    return time.perf_counter() - begin, trainer.state.global_step


def main() -> None:
    """Train in turn, print."""
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind, found in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                taken, steps = train(kind, folder, sys.argv[1:])
            found.append(taken)
    for kind, found in seconds.items():
        print_value(f"baby_cry_{kind}", float(np.median(found)), "s")
        print_value(f"baby_cry_{kind}_step", 1e3 * float(np.median(found)) / steps, "ms")
    medians = {kind: float(np.median(found)) for kind, found in seconds.items()}
    print_value("baby_cry_decoded_once_vs_in_memory", medians["decoded_once"] / medians["in_memory_before"], "times")


if __name__ == "__main__":
    main()
