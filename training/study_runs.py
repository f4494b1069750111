"""Runs of a study: the planned ones, the finished ones, and how their scores are combined."""

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
    part: str  # the fold, song or listener that is held out; "" for the split of the config
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class FinishedRun:
    """A cell that has ended."""

    cell: Cell
    facts: dict[str, Any]  # its metrics.json
    scores: Any  # of its single items, as the task's `read_scores` gives them


@dataclass(frozen=True)
class StudyTables:
    """How a task combines the scores of several runs."""

    items: tuple[str, str]  # headings: the thing that a row is about, and the items that were scored
    explained: str  # the note below the table
    scores_of_run: Callable[[dict[str, Any]], list[dict[str, Any]]]  # metrics.json -> one row per score
    read_scores: Callable[[Path], Any]  # predictions.parquet -> scores of single items
    rows_of_setting: Callable[[Sequence[FinishedRun], Sequence[FinishedRun]], Iterator[dict[str, Any]]]
    # (runs of a setting, runs of the first setting) -> rows of the table


def long_scores(channel: str, of: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The scores of the model and of others, by who they are of, as rows of a long table."""
    return [
        {"channel": channel, "who": who, "score": score} | {key: found[key] for key in ("mean", "low", "high")}
        for who, scores in of.items()
        for score, found in scores.items()
    ]


def by_seed(runs: Sequence[FinishedRun], values: Sequence[float]) -> list[float]:
    """The mean of a value (runs,) over the runs of each seed, in the order of the seeds."""
    seeds = np.array([run.cell.seed for run in runs])
    return [float(np.mean(np.asarray(values)[seeds == seed])) for seed in np.unique(seeds)]


def mean_over_runs(runs: Sequence[dict[str, np.ndarray]], score: str) -> np.ndarray:
    """A score (1 + S,), averaged over runs within each resample."""
    return np.mean([found[score] for found in runs], axis=0)
