"""Training speed by number of threads and by how they wait, alone and next to one process that keeps a core busy.

    python -m benchmarks.threads [--full]

Each training is a process of its own, since OpenMP reads its settings when torch is imported. Rounds take turns.
Timed are the steps after the first twenty.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import print_value
from benchmarks.training import WARMUP_STEPS

# Name -> threads, and what OpenMP does while it waits for work.
SETTINGS = {
    "1_thread": {"OMP_NUM_THREADS": "1"},
    "all_threads_spin": {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "active"},
    "all_threads_spin_briefly": {"OMP_NUM_THREADS": str(os.cpu_count()), "GOMP_SPINCOUNT": "10000"},
    "all_threads_sleep": {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "passive"},
}
# Config -> steps that are timed.
STEPS = {"eda_tcn": 150, "meld_sample": 40, "baby_cry": 40}
ONE_TRAINING = """
import sys
from benchmarks.training import time_one_run
print("SECONDS", time_one_run(sys.argv[1:])["seconds"])
"""
HOG = "while True: pass"


@contextlib.contextmanager
def competitor(there: bool) -> Iterator[None]:
    """A process that keeps one core busy."""
    if not there:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", HOG]) as process:
        try:
            yield
        finally:
            process.kill()


def steps_per_second(config: str, setting: dict[str, str]) -> float:
    """Speed of one training."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        command = [f"configs/{config}.json", "--use_cpu", "true", "--output_dir", f"{folder}/run"]
        command += ["--max_steps", str(WARMUP_STEPS + STEPS[config]), "--num_threads", setting["OMP_NUM_THREADS"]]
        done = subprocess.run(
            [sys.executable, "-c", ONE_TRAINING, *command],
            cwd=Path(__file__).parent.parent, env=inherited | setting, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("SECONDS"))
    return STEPS[config] / float(line.split()[1])


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="five rounds instead of one")
    parser.add_argument("--config", nargs="+", choices=STEPS, default=list(STEPS))
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    for _ in range(5 if options.full else 1):
        for config in options.config:
            for busy in (False, True):
                for name, setting in SETTINGS.items():
                    with competitor(busy):
                        speed = steps_per_second(config, setting)
                    found.setdefault(f"{config}_{name}_{'busy' if busy else 'quiet'}", []).append(speed)
    for name, speeds in found.items():
        print_value(name, statistics.median(speeds), "steps/s")


if __name__ == "__main__":
    main()
