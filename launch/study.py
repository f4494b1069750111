"""Plan and run a study, that is, many runs of one config, and collect their scores.

A cell of a study is an ordinary run of run_train.py in its own folder. `Task.study` defines how scores are combined.
"""

import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import datasets
import numpy as np
from tqdm import tqdm

from launch.run import load_task, parse_run
from launch.study_settings import Study, division_of, settings_of_study
from system.text import masked
from tasks import TASKS
from training.rows import load_rows, use_storage
from training.run_folder import write_json
from training.study_runs import Cell, FinishedRun, StudyTables
from training.task import Run

RUN_TRAIN = Path(__file__).resolve().parent.parent / "run_train.py"


def plan(study: Study) -> list[Cell]:
    """Return all runs of a study, after checking the settings and the split of each."""
    tables_of(study)
    parts = parts_of(study)
    cells = []
    for number, (setting, arguments) in enumerate(settings_of_study(study)):
        for (part, division), seed in itertools.product(parts, study.seeds):
            name = "-".join(filter(None, [f"setting{number}" if study.settings else "", part, f"seed{seed}"]))
            folder = ("--output_dir", str(study.folder / name))
            cells.append(Cell(name, setting, seed, part, (*arguments, *division, "--seed", str(seed), *folder)))
        # The split does not depend on the seed, so check the first seed of each part.
        check_splits(study, cells[-len(parts) * len(study.seeds) :: len(study.seeds)])
    return cells


def check_splits(study: Study, cells: Sequence[Cell]) -> None:
    """Raise ValueError if a cell has a wrong key or would have an empty split."""
    rows = None  # loaded once, and only if a cell holds out a part of the data
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
    """Return the functions that combine scores for the task; raise ValueError if it does not support studies."""
    task = parse_run([study.config, *study.passed_on]).task
    if task.study is None:
        supported = ", ".join(name for name in TASKS if load_task(name).study is not None)
        raise ValueError(
            f"{study.config}: task={task.name!r}: does not support studies. Supported tasks: {supported}."
        )
    return task.study


def parts_of(study: Study) -> list[tuple[str, tuple[str, ...]]]:
    """Return the name, which is usable as a folder name, and the arguments of each part of the data to hold out."""
    if study.folds:
        return [(f"fold{fold}", ("--folds", str(study.folds), "--fold", str(fold))) for fold in range(study.folds)]
    if study.leave_out:
        # Any id will do to load the data. The real ids are in its rows.
        run = parse_run([study.config, *study.passed_on, *division_of(study, "any")])
        ids = run.task.ids_of(rows_of(run), run, study.leave_out)
        return [(f"{study.leave_out}{quote(name, safe='')}", division_of(study, name)) for name in ids]
    return [("", ())]  # one part: the split of the config


def rows_of(run: Run) -> datasets.Dataset:
    use_storage(run.arguments)
    return load_rows(run.arguments, run.task.columns, recorded=False)[0]


def begin_study(study: Study, cells: Sequence[Cell]) -> None:
    """Write the plan to study.json; raise ValueError if the folder has another plan."""
    path = study.folder / "study.json"
    record = {
        "config": json.loads(Path(study.config).read_text(encoding="utf-8")),
        "cells": [asdict(c) for c in cells],
    }
    record = masked(json.loads(json.dumps(record)))  # the round trip turns tuples into lists, to compare with the file
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        for key in record:
            if before[key] != record[key]:
                raise ValueError(
                    f"output_dir={study.folder}: contains a study with another {key}. Give another --output_dir."
                )
    study.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def run_cells(study: Study, cells: Sequence[Cell]) -> dict[str, str]:
    """Run the unfinished cells, resuming from their checkpoints. The output of each goes to `<name>.log`.

    A failed run does not stop the others.

    Returns:
        Reason by name of the cell, for each failed run.
    """
    failed = {}
    for cell in tqdm(cells, desc="runs", unit="run"):
        if is_finished(study, cell):  # by an earlier call of the same command
            continue
        # A process for each run: it releases all memory at its end, and may have its own launcher.
        command = [*shlex.split(study.launcher), str(RUN_TRAIN), study.config, *cell.arguments]
        log = study.folder / f"{cell.name}.log"
        with open(log, "w", encoding="utf-8") as file:
            result = subprocess.run(
                [*command, "--resume_from_checkpoint", "true"], stdout=file, stderr=subprocess.STDOUT, check=False
            )
        if result.returncode:
            # Our programs print their error as the last line.
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            failed[cell.name] = lines[-1] if lines else f"exit status {result.returncode}"
            tqdm.write(f"failed: {cell.name}: {failed[cell.name]}", file=sys.stderr)
    return failed


def collect(study: Study, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the facts for the study's tables, from all finished runs.

    `runs` has a row for each run, channel, model or baseline, and score; `rows` for each setting, channel and score.
    """
    tables = tables_of(study)
    finished = [finished_run(study, cell, tables) for cell in cells if is_finished(study, cell)]
    if not finished:
        raise ValueError(f"{study.folder}: no run has finished. See the .log files in this folder.")
    # dict.fromkeys keeps the order of the command line; differences are relative to the first setting.
    settings = list(dict.fromkeys(cell.setting for cell in cells))
    by_setting = {setting: [run for run in finished if run.cell.setting == setting] for setting in settings}
    rows = [
        row_of(setting, runs, row)
        for setting, runs in by_setting.items()
        for row in (tables.rows_of_setting(runs, by_setting[settings[0]]) if runs else ())
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
    # A run writes metrics.json last.
    return (study.folder / cell.name / "metrics.json").is_file()


def finished_run(study: Study, cell: Cell, tables: StudyTables) -> FinishedRun:
    """Read the results of a finished cell."""
    folder = study.folder / cell.name
    facts = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return FinishedRun(cell, facts, tables.read_scores(folder / "predictions.parquet"))


def row_of(setting: str, runs: Sequence[FinishedRun], row: dict[str, Any]) -> dict[str, Any]:
    """Return a table row: the columns shared by all tasks, and the other columns of the task's `row`."""
    by_seed = row.pop("by_seed")
    # Runs without validation have no best score. A mean over the others would be misleading.
    validation = [run.facts["training"]["best_validation"] for run in runs]
    return {
        "setting": setting,
        "channel": row.pop("channel"),
        "score": row.pop("score"),
        "runs": len(runs),
        **asdict(row.pop("interval")),
        "spread_over_seeds": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        **row,
        "validation": float(np.mean(validation)) if None not in validation else None,
    }
