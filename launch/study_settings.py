"""The command line of a study: what is varied, and the arguments of each setting, checked before torch is imported."""

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

from evaluation.splits import FEWEST_FOLDS, LEAVE_ONE_OUT
from launch.settings import read_settings

OF_THE_STUDY = (
    "seed", "folds", "fold", "held_out_song", "held_out_listener", "output_dir", "resume_from_checkpoint",
)  # fmt: skip
AS_CONFIGURED = "as configured"


@dataclass(frozen=True)
class Study:
    """What is varied, and where it goes."""

    config: str
    folder: Path
    seeds: tuple[int, ...]
    folds: int  # 0: none
    leave_out: str | None  # "song" or "listener": one run each
    settings: tuple[tuple[str, tuple[str, ...]], ...]  # key and its values
    passed_on: tuple[str, ...]  # further arguments of every run
    launcher: str
    dry_run: bool


def parse_study(argv: list[str]) -> Study:
    """The command line of run_study.py; what it does not know goes to every run."""
    parser = argparse.ArgumentParser(
        prog="run_study.py",
        description="Run one config over seeds, folds, songs, listeners or settings. Other keys go to all runs.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="A config such as configs/eda_tcn.json.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="Seeds of weights and order; one split.")
    parser.add_argument("--folds", type=int, default=0, help="k-fold: every song is in the test of one fold.")
    parser.add_argument("--leave_one_song_out", action="store_true", help="One run for each song, which is its test.")
    parser.add_argument(
        "--leave_one_listener_out", action="store_true", help="One run for each listener, who is its test."
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=A,B", help="Values to compare; repeatable.")
    parser.add_argument("--output_dir", default=None, help="Folder of the study; None is outputs/study-<config>.")
    parser.add_argument("--launcher", default=sys.executable, help='Starts each run, e.g. "accelerate launch".')
    parser.add_argument("--dry_run", action="store_true", help="Print the runs and stop.")
    known, passed_on = parser.parse_known_args(argv)
    left_out = [kind for rule, kind in LEAVE_ONE_OUT.items() if getattr(known, rule)]
    if len(left_out) + bool(known.folds) > 1:
        raise ValueError(
            "--folds, --leave_one_song_out and --leave_one_listener_out are ways to divide the data; choose one"
        )
    if known.folds and known.folds < FEWEST_FOLDS:
        raise ValueError(
            f"--folds {known.folds}: give {FEWEST_FOLDS} or more (a test, a validation, and some to train on)"
        )
    if len(set(known.seeds)) < len(known.seeds):
        raise ValueError(f"--seeds {known.seeds} names a seed twice")
    folder = Path(known.output_dir or Path("outputs") / f"study-{Path(known.config).stem}")
    settings = tuple(parse_setting(text) for text in known.set)
    return Study(
        known.config,
        folder,
        tuple(known.seeds),
        known.folds,
        next(iter(left_out), None),
        settings,
        tuple(passed_on),
        known.launcher,
        known.dry_run,
    )


def parse_setting(text: str) -> tuple[str, tuple[str, ...]]:
    """Read `key=a,b`; commas inside brackets belong to a value."""
    key, equals, values = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {text!r}: expected key=value,value, such as learning_rate=1e-3,3e-4")
    if key in OF_THE_STUDY:
        raise ValueError(f"--set {key}: the study sets it itself; see --seeds, --folds and --leave_one_..._out")
    parts, depth = [""], 0
    for letter in values:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    parts = [part.strip() for part in parts]
    if "" in parts or len(set(parts)) < len(parts):
        raise ValueError(f"--set {text!r}: its values must be different, and none empty")
    return key, tuple(parts)


def read_study(argv: list[str]) -> Study:
    """The command line, and the keys and values of every setting checked."""
    study = parse_study(argv)
    read_settings([study.config, *study.passed_on])
    for _, arguments in settings_of_study(study):
        read_settings([study.config, *arguments, *division_of(study, part="any")])
    return study


def settings_of_study(study: Study) -> list[tuple[str, tuple[str, ...]]]:
    """Name and arguments of each combination of values."""
    found = []
    for pairs in itertools.product(*([(key, value) for value in values] for key, values in study.settings)):
        name = ", ".join(f"{key}={value}" for key, value in pairs) or AS_CONFIGURED
        found.append((name, (*study.passed_on, *(token for key, value in pairs for token in (f"--{key}", value)))))
    return found


def division_of(study: Study, part: str) -> tuple[str, ...]:
    """The arguments that leave out one song or listener."""
    if not study.leave_out:
        return ()
    return "--split_by", f"leave_one_{study.leave_out}_out", f"--held_out_{study.leave_out}", part
