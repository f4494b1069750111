"""Read and check the command line of a study, before torch is imported."""

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

from evaluation.splits import FEWEST_FOLDS, LEAVE_ONE_OUT
from launch.settings import read_settings

# Keys that the study sets for each run.
SET_BY_STUDY = (
    "seed", "folds", "fold", "held_out_song", "held_out_listener", "output_dir", "resume_from_checkpoint",
)  # fmt: skip
AS_CONFIGURED = "as configured"


@dataclass(frozen=True)
class Study:
    """The options of run_study.py."""

    config: str
    folder: Path
    seeds: tuple[int, ...]
    folds: int  # number of folds; 0 disables them
    leave_out: str | None  # "song" or "listener": one run for each of these
    settings: tuple[tuple[str, tuple[str, ...]], ...]  # keys to vary, each with its values
    passed_on: tuple[str, ...]  # further arguments for every run
    launcher: str
    dry_run: bool


def parse_study(argv: list[str]) -> Study:
    """Read the command line of run_study.py. Unknown arguments are passed on to every run."""
    parser = argparse.ArgumentParser(
        prog="run_study.py",
        description="Run one config over seeds, folds, songs, listeners or settings. Other keys go to all runs.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="A config such as configs/eda_tcn.json.")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="Seeds for weights and sampling order; by default 0. All seeds use the same split.",
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        help="Number of folds for cross-validation: each song is in the test split of one fold. 0 disables it.",
    )
    parser.add_argument(
        "--leave_one_song_out", action="store_true", help="Do one run per song, with this song as the test split."
    )
    parser.add_argument(
        "--leave_one_listener_out",
        action="store_true",
        help="Do one run per listener, with this listener as the test split.",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=A,B", help="Key to vary, with its values. Can be repeated."
    )
    parser.add_argument(
        "--output_dir", default=None, help="Folder of the study; by default outputs/study-<name of the config>."
    )
    parser.add_argument(
        "--launcher",
        default=sys.executable,
        help='Command that starts each run, such as "accelerate launch"; by default this Python.',
    )
    parser.add_argument("--dry_run", action="store_true", help="Print the runs without doing them.")
    options, passed_on = parser.parse_known_args(argv)
    left_out = [kind for rule, kind in LEAVE_ONE_OUT.items() if getattr(options, rule)]
    if len(left_out) + bool(options.folds) > 1:
        raise ValueError(
            "--folds, --leave_one_song_out, --leave_one_listener_out: only one of these is allowed. Remove the others."
        )
    if options.folds and options.folds < FEWEST_FOLDS:
        raise ValueError(
            f"--folds={options.folds}: must leave folds for test, validation and train. Give {FEWEST_FOLDS} or more."
        )
    if len(set(options.seeds)) < len(options.seeds):
        raise ValueError(f"--seeds={options.seeds}: contains a seed twice. Remove the duplicate.")
    folder = Path(options.output_dir or Path("outputs") / f"study-{Path(options.config).stem}")
    # Each --set is one dimension of the grid.
    settings = tuple(parse_setting(text) for text in options.set)
    return Study(
        options.config,
        folder,
        tuple(options.seeds),
        options.folds,
        next(iter(left_out), None),
        settings,
        tuple(passed_on),
        options.launcher,
        options.dry_run,
    )


def parse_setting(text: str) -> tuple[str, tuple[str, ...]]:
    """Parse `key=a,b`. Commas inside brackets belong to a value."""
    key, equals, values = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set={text!r}: not key=value,value. Write it like learning_rate=1e-3,3e-4.")
    if key in SET_BY_STUDY:
        raise ValueError(f"--set={key}: is set by the study. Use --seeds, --folds or --leave_one_..._out.")
    # Split at commas, except inside brackets, where they belong to a JSON list or object.
    parts, depth = [""], 0
    for character in values:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    parts = [part.strip() for part in parts]
    if "" in parts or len(set(parts)) < len(parts):
        raise ValueError(f"--set={text!r}: has an empty or repeated value. Give different values.")
    return key, tuple(parts)


def read_study(argv: list[str]) -> Study:
    """Read the command line of run_study.py, and check the keys and values of every setting."""
    study = parse_study(argv)
    read_settings([study.config, *study.passed_on])
    for _, arguments in settings_of_study(study):
        # The ids are not known before the data is loaded. Any text is valid for checking the keys.
        read_settings([study.config, *arguments, *division_of(study, part="any")])
    return study


def settings_of_study(study: Study) -> list[tuple[str, tuple[str, ...]]]:
    """Return the name and the arguments of each combination of values."""
    combinations = []
    for pairs in itertools.product(*([(key, value) for value in values] for key, values in study.settings)):
        name = ", ".join(f"{key}={value}" for key, value in pairs) or AS_CONFIGURED
        arguments = (token for key, value in pairs for token in (f"--{key}", value))
        combinations.append((name, (*study.passed_on, *arguments)))
    return combinations


def division_of(study: Study, part: str) -> tuple[str, ...]:
    """Return the arguments that hold out this song or listener; empty if the study does not leave one out."""
    if not study.leave_out:
        return ()
    return "--split_by", f"leave_one_{study.leave_out}_out", f"--held_out_{study.leave_out}", part
