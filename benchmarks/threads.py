"""Training speed by number of threads and by how they wait, on an idle machine and next to a busy process.

    python -m benchmarks.threads [--full]

Each training run is a separate process, because OpenMP reads its settings when torch is imported. Settings take turns.
The first twenty steps are not timed.
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

# Name -> number of threads, and what OpenMP does while it waits for work.
SETTINGS = {
    "1_thread": {"OMP_NUM_THREADS": "1"},
    "all_threads_spin": {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "active"},
    "all_threads_spin_briefly": {"OMP_NUM_THREADS": str(os.cpu_count()), "GOMP_SPINCOUNT": "10000"},
    "all_threads_sleep": {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "passive"},
}
# Config -> number of timed steps.
STEPS = {"eda_tcn": 150, "meld_sample": 40, "baby_cry": 40}
ONE_TRAINING = """
import sys
from benchmarks.training import time_one_run
print("SECONDS", time_one_run(sys.argv[1:])["seconds"])
"""
BUSY = "while True: pass"


@contextlib.contextmanager
def busy_process(is_busy: bool) -> Iterator[None]:
    """Keep one core busy inside the block, if `is_busy`."""
    if not is_busy:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def steps_per_second(config: str, setting: dict[str, str]) -> float:
    """Return the speed of one training run."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="five rounds instead of one")
    parser.add_argument("--config", nargs="+", choices=STEPS, default=list(STEPS))
    options = parser.parse_args()
    speeds_of_setting: dict[str, list[float]] = {}
    for _ in range(5 if options.full else 1):
        for config in options.config:
            for busy in (False, True):
                for name, setting in SETTINGS.items():
                    with busy_process(busy):
                        speed = steps_per_second(config, setting)
                    key = f"{config}_{name}_{'busy' if busy else 'quiet'}"
                    speeds_of_setting.setdefault(key, []).append(speed)
    for name, speeds in speeds_of_setting.items():
        print_value(name, statistics.median(speeds), "steps/s")


if __name__ == "__main__":
    main()
