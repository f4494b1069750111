"""Studies: many runs of one config, planned before the first begins, kept when they are whole, gathered at the end.

A cell is one ordinary run of run_train.py in a folder of its own: what a study does can be done by hand. What the
scores of a run are, and how those of several are put together, its task says by `study`.
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
    """Every run, its settings and its division of the data checked before the first begins."""
    tables_of(study)
    parts = parts_of(study)
    cells = []
    for number, (setting, arguments) in enumerate(settings_of_study(study)):
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
        run = parse_run([study.config, *study.passed_on, *division_of(study, "any")])
        ids = run.task.ids_of(rows_of(run), run, study.leave_out)
        return [(f"{study.leave_out}{quote(name, safe='')}", division_of(study, name)) for name in ids]
    return [("", ())]


def rows_of(run: Run) -> datasets.Dataset:
    """The rows of the data set that a run names."""
    use_storage(run.arguments)
    return load_rows(run.arguments, run.task.columns, recorded=False)[0]


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
