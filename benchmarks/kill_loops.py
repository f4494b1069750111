"""Kill programs at random moments, start them again, and compare every byte with a program that nobody killed.

    python -m benchmarks.kill_loops [--kills 10] [--prepare_kills 20] [--only detection emotion pmemo] [--seed 0]

Training is killed in two tasks, prepare on all data sets; `--kills` and `--prepare_kills` are shared out among them.
Each program is killed up to three times in a row, by SIGKILL to all of its processes, and then runs to its end. Its
model and predictions, or all that it prepared, must equal those of the run that was left alone.
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

IN_A_ROW = 3
SHORT = (
    "--max_steps", "12", "--save_strategy", "steps", "--save_steps", "3", "--eval_strategy", "steps", "--eval_steps",
    "6", "--load_best_model_at_end", "false", "--disable_tqdm", "true", "--report_to", "none", "--num_threads", "1",
    "--use_cpu", "true", "--resume_from_checkpoint", "true",
)  # fmt: skip
TRAINING = {
    "detection": ("configs/baby_cry.json", "--max_eval_clips", "24"),
    "emotion": ("configs/meld_sample.json", "--ablations", "false"),
}
RAW = {  # data set -> options of its synthesize.py
    "audioset": ("--num_train", "60", "--num_eval", "20"),
    "folder": ("--num_songs", "12", "--seconds", "5", "6"),
    "hku956": ("--num_songs", "20", "--seconds", "5", "6"),
    "meld": ("--num_train", "48", "--num_dev", "12", "--num_test", "12"),
    "pmemo": ("--num_songs", "40", "--seconds", "5", "6"),
    "tunein": (),
}


@dataclass(frozen=True)
class Killed:
    """A program that can be started again after it was killed."""

    name: str
    command: Callable[[Path], Sequence[str | Path]]  # of the folder that it writes
    result: Callable[[Path], dict[str, bytes]]  # of that folder, by file
    ended: Callable[[Path], bool]  # whether there is nothing left to do


def of_run(folder: Path) -> dict[str, bytes]:
    """The model and the predictions of a run."""
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "predictions.parquet")}


def training(task: str) -> Killed:
    """A short training on a sample."""

    def command(folder: Path) -> Sequence[str | Path]:
        return ["run_train.py", *TRAINING[task], *SHORT, "--output_dir", folder]

    return Killed(task, command, of_run, lambda folder: (folder / "metrics.json").exists())


def preparing(name: str, room: Path) -> Killed:
    """The preparation of a small raw tree, which is made here."""
    raw = room / f"raw-{name}"
    importlib.import_module(f"hf_datasets.{name}.synthesize").main(["--output_dir", str(raw), *RAW[name]])

    def command(folder: Path) -> Sequence[str | Path]:
        options = ["--raw_dir", raw, "--output_dir", folder, "--keep_unreadable", "--num_proc", "2"]
        return ["-m", "hf_datasets.prepare", name, *options]

    return Killed(name, command, contents, lambda folder: False)


def run_for(seconds: float | None, command: Sequence[str | Path], said: Path) -> bool:
    """Start a program and kill it and its children after some seconds, or let it end; whether it was killed."""
    process = start(*command, said=said)
    process.join(seconds)
    if process.exitcode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # its first line makes the group
            process.kill()
        process.join()
        return True
    if process.exitcode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit status {process.exitcode}\n{last_words(said)}")
    return False


def last_words(said: Path) -> str:
    """The end of what a program wrote to stderr."""
    return said.with_name(f"{said.name}.err").read_text()[-2000:]


def kill_loop(program: Killed, kills: int, draw: random.Random, room: Path) -> int:
    """Kill a program so many times; returns how many runs ended and were compared. Different bytes end it all."""
    room.mkdir()
    begin = time.monotonic()
    run_for(None, program.command(room / "whole"), room / "whole.said")
    seconds = time.monotonic() - begin
    expected = program.result(room / "whole")
    done = compared = 0
    while done < kills:
        folder = room / f"killed-{compared}"
        for _ in range(min(IN_A_ROW, kills - done)):
            if program.ended(folder) or not run_for(draw.uniform(0, seconds), program.command(folder), room / "said"):
                break
            done += 1
        if not program.ended(folder):
            run_for(None, program.command(folder), room / "said")
        found = program.result(folder)
        compared += 1
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if differing:
            raise SystemExit(f"{program.name}: after {done} kills {', '.join(differing)} differ from {room / 'whole'}")
        shutil.rmtree(folder)
    print(f"{program.name}: {done} kills within {seconds:.1f} s, {compared} runs compared, {len(expected)} files each")
    return compared


def shares(total: int, parts: int) -> list[int]:
    """Whole numbers that sum up to a total and differ by at most 1."""
    return [total // parts + (place < total % parts) for place in range(parts)]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_loops", description="Kill, restart, compare.")
    parser.add_argument("--kills", type=int, default=10, help="Of training.")
    parser.add_argument("--prepare_kills", type=int, default=20, help="Of prepare.")
    parser.add_argument("--only", nargs="+", default=[*TRAINING, *RAW], choices=[*TRAINING, *RAW], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    options = parser.parse_args(arguments)
    tasks, names = ([name for name in kinds if name in options.only] for kinds in (TRAINING, RAW))
    draw, compared = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        run_for(None, ["run_train.py", "--help"], room / "said")  # the first start makes the imports of all
        for task, kills in zip(tasks, shares(options.kills, max(1, len(tasks))), strict=False):
            compared += kill_loop(training(task), kills, draw, room / task)
        for name, kills in zip(names, shares(options.prepare_kills, max(1, len(names))), strict=False):
            compared += kill_loop(preparing(name, room), kills, draw, room / name)
    print_value("killed_runs_compared", compared, "runs")


if __name__ == "__main__":
    main()
