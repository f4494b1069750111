"""Studies: many runs of one config, planned before the first begins, kept when they are whole, gathered at the end.

A cell is one ordinary run of run_train.py in a folder of its own: what a study does can be done by hand. What the
scores of a run are, and how those of several are put together, its task says by `study`.
"""

import argparse
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import datasets
import numpy as np
from tqdm import tqdm

from evaluation.splits import FEWEST_FOLDS, LEAVE_ONE_OUT
from launch.run import load_task, parse_run
from system.text import masked
from tasks import TASKS
from training.rows import load_rows, use_storage
from training.run_folder import write_json
from training.study_runs import Cell, FinishedRun, StudyTables
from training.task import Run

RUN_TRAIN = Path(__file__).resolve().parent.parent / "run_train.py"
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


def plan(study: Study) -> list[Cell]:
    """Every run, its settings and its division of the data checked before the first begins."""
    tables_of(study)
    parts = parts_of(study)
    chosen = list(itertools.product(*([(key, value) for value in values] for key, values in study.settings)))
    cells = []
    for number, pairs in enumerate(chosen):
        setting = ", ".join(f"{key}={value}" for key, value in pairs) or AS_CONFIGURED
        arguments = [*study.passed_on, *(token for key, value in pairs for token in (f"--{key}", value))]
        for (part, division), seed in itertools.product(parts, study.seeds):
            name = "-".join(filter(None, [f"setting{number}" if study.settings else "", part, f"seed{seed}"]))
            folder = ("--output_dir", str(study.folder / name))
            cells.append(Cell(name, setting, seed, part, (*arguments, *division, "--seed", str(seed), *folder)))
        check_divisions(study, cells[-len(parts) * len(study.seeds) :: len(study.seeds)])
    return cells


def check_divisions(study: Study, cells: Sequence[Cell]) -> None:
    """Refuse settings of which one cannot be run: a wrong key, or a part of the data that leaves a side empty."""
    rows = None
    for cell in cells:
        run = parse_run([study.config, *cell.arguments])
        if not cell.part:
            continue
        try:
            rows = rows_of(run) if rows is None else rows
            run.task.check_split(rows, run)
        except ValueError as error:
            raise ValueError(f"{cell.name}: {error}") from error


def tables_of(study: Study) -> StudyTables:
    """Return how the task combines the scores of its runs."""
    task = parse_run([study.config, *study.passed_on]).task
    if task.study is None:
        able = ", ".join(name for name in TASKS if load_task(name).study is not None)
        raise ValueError(f"{study.config}: task={task.name}: it has no study tables. Tasks that do: {able}.")
    return task.study


def parts_of(study: Study) -> list[tuple[str, tuple[str, ...]]]:
    """Name and arguments of each division of the data; names fit for folders."""
    if study.folds:
        return [(f"fold{fold}", ("--folds", str(study.folds), "--fold", str(fold))) for fold in range(study.folds)]
    if study.leave_out:
        asked = ("--split_by", f"leave_one_{study.leave_out}_out", f"--held_out_{study.leave_out}")
        run = parse_run([study.config, *study.passed_on, *asked, "any"])  # a task may not know these keys
        ids = run.task.ids_of(rows_of(run), run, study.leave_out)
        return [(f"{study.leave_out}{quote(name, safe='')}", (*asked, name)) for name in ids]
    return [("", ())]


def rows_of(run: Run) -> datasets.Dataset:
    """The rows of the data set that a run names."""
    use_storage(run.arguments)
    return load_rows(run.arguments, run.task.columns)[0]


def begin_study(study: Study, cells: Sequence[Cell]) -> None:
    """Write the plan, or see that an older one in the same folder is the same."""
    path = study.folder / "study.json"
    record = {
        "config": json.loads(Path(study.config).read_text(encoding="utf-8")),
        "cells": [asdict(c) for c in cells],
    }
    record = masked(json.loads(json.dumps(record)))
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        for key in record:
            if before[key] != record[key]:
                raise ValueError(f"{study.folder} holds a study with other {key}; name another --output_dir")
    study.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def run_cells(study: Study, cells: Sequence[Cell]) -> dict[str, str]:
    """Run what is not finished yet, going on from checkpoints; what each says is in `<name>.log`.

    Returns why some failed: they cost the others nothing.
    """
    failed = {}
    for cell in tqdm(cells, desc="runs", unit="run"):
        if is_finished(study, cell):
            continue
        command = [*shlex.split(study.launcher), str(RUN_TRAIN), study.config, *cell.arguments]
        log = study.folder / f"{cell.name}.log"
        with open(log, "w", encoding="utf-8") as file:
            done = subprocess.run(
                [*command, "--resume_from_checkpoint", "true"], stdout=file, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode:
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            failed[cell.name] = lines[-1] if lines else f"ended with status {done.returncode}"
            tqdm.write(f"failed: {cell.name}: {failed[cell.name]}", file=sys.stderr)
    return failed


def collect(study: Study, cells: Sequence[Cell]) -> dict[str, Any]:
    """The scores of all finished runs: `runs`, a row a run, channel, who and score; `rows`, a row a setting, channel
    and score; and what a reader must know."""
    tables = tables_of(study)
    finished = [finished_run(study, cell, tables) for cell in cells if is_finished(study, cell)]
    if not finished:
        raise ValueError(f"{study.folder}: no run has ended; see the .log files there")
    settings = list(dict.fromkeys(cell.setting for cell in cells))
    of_setting = {setting: [run for run in finished if run.cell.setting == setting] for setting in settings}
    rows = [
        row_of(setting, runs, found)
        for setting, runs in of_setting.items()
        for found in (tables.rows_of_setting(runs, of_setting[settings[0]]) if runs else ())
    ]
    return {
        "config": study.config,
        "planned": len(cells),
        "finished": len(finished),
        "items": tables.items,
        "explained": tables.explained,
        "synthetic": any(run.facts["data"]["synthetic"] for run in finished),
        "warnings": sorted({text for run in finished if (text := run.facts["data"].get("split_warning"))}),
        "settings": len(settings),
        "rows": rows,
        "runs": [
            {"setting": run.cell.setting, "seed": run.cell.seed, "part": run.cell.part, **row}
            for run in finished
            for row in tables.scores_of_run(run.facts)
        ],
    }


def is_finished(study: Study, cell: Cell) -> bool:
    """metrics.json is what a run writes last."""
    return (study.folder / cell.name / "metrics.json").is_file()


def finished_run(study: Study, cell: Cell, tables: StudyTables) -> FinishedRun:
    """What a cell has left."""
    folder = study.folder / cell.name
    facts = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return FinishedRun(cell, facts, tables.read_scores(folder / "predictions.parquet"))


def row_of(setting: str, runs: Sequence[FinishedRun], found: dict[str, Any]) -> dict[str, Any]:
    """One row of the table: what the task found, and what is the same for all tasks."""
    by_seed = found.pop("by_seed")
    validation = [run.facts["training"]["best_validation"] for run in runs]
    return {
        "setting": setting,
        "channel": found.pop("channel"),
        "score": found.pop("score"),
        "runs": len(runs),
        **asdict(found.pop("interval")),
        "spread_over_seeds": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        **found,
        "validation": float(np.mean(validation)) if None not in validation else None,
    }
