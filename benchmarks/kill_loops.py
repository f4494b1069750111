"""Kill programs at random times, restart them, and compare every byte with an uninterrupted run.

    python -m benchmarks.kill_loops [--kills 10] [--prepare_kills 20] [--only detection emotion pmemo] [--seed 0]

Training is killed in two tasks, prepare on all data sets; `--kills` and `--prepare_kills` are divided among them. Each
program is killed up to three times in a row, by SIGKILL to all of its processes, and then runs to its end. Its model
and predictions, or everything that it prepared, must be identical to those of the uninterrupted run.
"""

import argparse
import importlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import print_value
from tests.helpers.prepared_data import contents
from tests.helpers.programs import start

IN_A_ROW = 3  # kills before a program may run to its end
# Checkpoints every 3 steps, so that kills fall between and into them; one thread, for sums in a fixed order.
SHORT = (
    "--max_steps", "12", "--save_strategy", "steps", "--save_steps", "3", "--eval_strategy", "steps", "--eval_steps",
    "6", "--load_best_model_at_end", "false", "--disable_tqdm", "true", "--report_to", "none", "--num_threads", "1",
    "--use_cpu", "true", "--resume_from_checkpoint", "true",
)  # fmt: skip
TRAINING = {
    "detection": ("configs/baby_cry.json", "--max_eval_clips", "24"),
    "emotion": ("configs/meld_sample.json", "--ablations", "false"),
}
RAW = {  # data set -> options of its synthesize.py, for small trees
    "audioset": ("--num_train", "60", "--num_eval", "20"),
    "folder": ("--num_songs", "12", "--seconds", "5", "6"),
    "hku956": ("--num_songs", "20", "--seconds", "5", "6"),
    "meld": ("--num_train", "48", "--num_dev", "12", "--num_test", "12"),
    "pmemo": ("--num_songs", "40", "--seconds", "5", "6"),
    "tunein": (),
}


@dataclass(frozen=True)
class Killed:
    """A program that can be restarted after it was killed."""

    name: str
    command: Callable[[Path], Sequence[str | Path]]  # output folder -> command
    result: Callable[[Path], dict[str, bytes]]  # output folder -> contents by file name
    ended: Callable[[Path], bool]  # output folder -> whether the program has finished


def of_run(folder: Path) -> dict[str, bytes]:
    """Return the model and the predictions of a run."""
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "predictions.parquet")}


def training(task: str) -> Killed:
    """Return a short training run on a sample."""

    def command(folder: Path) -> Sequence[str | Path]:
        return ["run_train.py", *TRAINING[task], *SHORT, "--output_dir", folder]

    return Killed(task, command, of_run, lambda folder: (folder / "metrics.json").exists())


def preparing(name: str, folder: Path) -> Killed:
    """Make a small raw tree in `folder`, and return the preparation of it."""
    raw = folder / f"raw-{name}"
    importlib.import_module(f"hf_datasets.{name}.synthesize").main(["--output_dir", str(raw), *RAW[name]])

    def command(output: Path) -> Sequence[str | Path]:
        options = ["--raw_dir", raw, "--output_dir", output, "--keep_unreadable", "--num_proc", "2"]
        return ["-m", "hf_datasets.prepare", name, *options]

    # A prepared folder is never "finished": a restart checks it and returns at once.
    return Killed(name, command, contents, lambda output: False)


def run_for(seconds: float | None, command: Sequence[str | Path], log: Path) -> bool:
    """Start a program, and kill it and its children after some seconds (None: never); return whether it was killed."""
    process = start(*command, log=log)
    process.join(seconds)
    if process.exitcode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it was killed before it could create its process group
            process.kill()
        process.join()
        return True
    if process.exitcode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit status {process.exitcode}\n{end_of_stderr(log)}")
    return False


def end_of_stderr(log: Path) -> str:
    return log.with_name(f"{log.name}.err").read_text()[-2000:]


def kill_loop(program: Killed, kills: int, draw: random.Random, folder: Path) -> int:
    """Kill a program this many times; return how many runs finished and were compared.

    Raises:
        SystemExit: if a file differs from that of the uninterrupted run.
    """
    folder.mkdir()
    started = time.monotonic()
    run_for(None, program.command(folder / "whole"), folder / "whole.log")
    seconds = time.monotonic() - started
    expected = program.result(folder / "whole")
    done = compared = 0
    while done < kills:
        output, log = folder / f"killed-{compared}", folder / "log"
        for _ in range(min(IN_A_ROW, kills - done)):
            if program.ended(output) or not run_for(draw.uniform(0, seconds), program.command(output), log):
                break
            done += 1
        if not program.ended(output):
            run_for(None, program.command(output), log)
        result = program.result(output)
        compared += 1
        differing = sorted(name for name in result.keys() | expected.keys() if result.get(name) != expected.get(name))
        if differing:
            raise SystemExit(
                f"{program.name}: after {done} kills {', '.join(differing)} differ from {folder / 'whole'}"
            )
        shutil.rmtree(output)
    print(f"{program.name}: {done} kills within {seconds:.1f} s, {compared} runs compared, {len(expected)} files each")
    return compared


def shares(total: int, parts: int) -> list[int]:
    """Divide a total into integers that differ by at most 1."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_loops", description="Kill, restart, compare.")
    parser.add_argument("--kills", type=int, default=10, help="Number of kills of training.")
    parser.add_argument("--prepare_kills", type=int, default=20, help="Number of kills of prepare.")
    parser.add_argument("--only", nargs="+", default=[*TRAINING, *RAW], choices=[*TRAINING, *RAW], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="Of the times of the kills.")
    options = parser.parse_args(arguments)
    tasks, names = ([name for name in programs if name in options.only] for programs in (TRAINING, RAW))
    draw, compared = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # The first start loads the imports into the server that all others are forked from.
        run_for(None, ["run_train.py", "--help"], folder / "log")
        for task, kills in zip(tasks, shares(options.kills, max(1, len(tasks))), strict=False):
            compared += kill_loop(training(task), kills, draw, folder / task)
        for name, kills in zip(names, shares(options.prepare_kills, max(1, len(names))), strict=False):
            compared += kill_loop(preparing(name, folder), kills, draw, folder / name)
    print_value("killed_runs_compared", compared, "runs")


if __name__ == "__main__":
    main()
