"""The runs of a study, planned and finished, and how a task combines their scores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    name: str
    setting: str
    seed: int
    part: str  # the held-out fold, song or listener; "" for the split of the config
    arguments: tuple[str, ...]  # of run_train.py, after the config


@dataclass(frozen=True)
class FinishedRun:
    """A cell whose run has finished."""

    cell: Cell
    facts: dict[str, Any]  # its metrics.json
    scores: Any  # scores of single items, as returned by `StudyTables.read_scores`


@dataclass(frozen=True)
class StudyTables:
    """The functions with which a task combines the scores of several runs."""

    items: tuple[str, str]  # column headings: the subject of a row, and the items that were scored
    explained: str  # the note below the table
    scores_of_run: Callable[[dict[str, Any]], list[dict[str, Any]]]  # metrics.json -> one row per score
    read_scores: Callable[[Path], Any]  # path of predictions.parquet -> scores of single items
    # (runs of a setting, runs of the first setting) -> rows of the table
    rows_of_setting: Callable[[Sequence[FinishedRun], Sequence[FinishedRun]], Iterator[dict[str, Any]]]


def long_scores(channel: str, of: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return scores in long format, one row per score.

    Args:
        of: score intervals by name, by the model or baseline they belong to.
    """
    return [
        {"channel": channel, "who": who, "score": score} | {key: interval[key] for key in ("mean", "low", "high")}
        for who, scores in of.items()
        for score, interval in scores.items()
    ]


def by_seed(runs: Sequence[FinishedRun], values: Sequence[float]) -> list[float]:
    """Average the values (runs,) over the runs of each seed, in ascending order of the seeds."""
    seeds = np.array([run.cell.seed for run in runs])
    return [float(np.mean(np.asarray(values)[seeds == seed])) for seed in np.unique(seeds)]


def mean_over_runs(runs: Sequence[dict[str, np.ndarray]], score: str) -> np.ndarray:
    """Average a score (1 + S,), the value and its S bootstrap resamples, over runs."""
    return np.mean([scores[score] for scores in runs], axis=0)
