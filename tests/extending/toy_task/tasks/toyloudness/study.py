"""The table of `run_study.py`: the mean error over the tones of the tests of all runs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from evaluation.intervals import bootstrap
from training.study_runs import FinishedRun, StudyTables, by_seed


def scores_of_run(facts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"channel": "loudness", "who": "model", "score": "rmse", "mean": facts["test"]["rmse"]}]


def rows_of_setting(runs: Sequence[FinishedRun], reference: Sequence[FinishedRun]) -> Iterator[dict[str, Any]]:
    tones = np.concatenate([run.scores["tone_id"] for run in runs])
    errors = [np.abs(np.subtract(run.scores["prediction"], run.scores["target"])) for run in runs]
    row = {"channel": "loudness", "score": "error", "interval": bootstrap(np.concatenate(errors), tones, tones)}
    yield row | {"by_seed": by_seed(runs, [e.mean() for e in errors]), "difference": None, "effects": None}


NOTE = "Brackets: 95 % intervals over tones."
TABLES = StudyTables(("target", "tones"), NOTE, scores_of_run, pq.read_table, rows_of_setting)
