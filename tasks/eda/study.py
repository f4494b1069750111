"""Combine the scores of several eda runs.

Runs may test different trials, for example the folds of a cross-validation. The score of a trial is averaged over the
runs that tested it, then over trials.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.intervals import Interval, bootstrap
from training.study_runs import FinishedRun, StudyTables, long_scores

ITEMS = ("channel", "trials")  # column headings: the subject of a row, and the scored items
EXPLANATION = (
    "Means are over all trials that at least one run tested, each averaged over seeds. Brackets show 95 % intervals "
    "over the songs and listeners of these trials, not over runs, because all runs share the same data. Differences "
    "are from the first setting, trial by trial."
)
Key = tuple[str, str, str]  # song, listener, trial


def scores_of_run(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the scores of a run's model and baselines, one row per score."""
    return [
        row
        for name, channel in facts["test"]["channels"].items()
        for row in long_scores(name, {"model": channel["model"], **channel["baselines"]})
    ]


def read_scores(path: Path) -> dict[tuple[str, str], dict[Key, float]]:
    """Return the scores of each trial, by (channel, score name) and then by (song, listener, trial)."""
    table = pq.read_table(path)
    # Every float column is a score, apart from the frame rate.
    names = [field.name for field in table.schema if pa.types.is_floating(field.type) and field.name != "frame_rate"]
    columns = {name: table[name].to_pylist() for name in ("song_id", "listener", "trial", "channel", *names)}
    scores: dict[tuple[str, str], dict[Key, float]] = {}
    for row, channel in enumerate(columns["channel"]):
        key = columns["song_id"][row], columns["listener"][row], columns["trial"][row]
        for name in names:
            value = columns[name][row]
            scores.setdefault((channel, name), {})[key] = np.nan if value is None else value
    return scores


def rows_of_setting(runs: Sequence[FinishedRun], reference: Sequence[FinishedRun]) -> Iterator[dict[str, Any]]:
    """Yield one row per channel and score.

    It holds the pooled mean with its interval, the values by seed, the difference from the first setting, and the
    number of runs whose verdict was an effect.
    """
    for channel, score in runs[0].scores:
        pooled = pool([run.scores[channel, score] for run in runs])
        reference_pooled = pool([run.scores[channel, score] for run in reference])
        shared = [key for key in pooled if key in reference_pooled]
        # The first setting is its own reference and has no difference from itself.
        difference = None
        if shared and runs != reference:
            difference = asdict(interval_of({key: pooled[key] - reference_pooled[key] for key in shared}))
        # One value per seed, for the spread over seeds, from all trials that the runs with this seed tested.
        by_seed = [
            np.nanmean(list(pool([run.scores[channel, score] for run in runs if run.cell.seed == seed]).values()))
            for seed in sorted({run.cell.seed for run in runs})
        ]
        verdicts = [run.facts["test"]["channels"][channel]["verdict"]["verdict"] for run in runs]
        yield {
            "channel": channel,
            "score": score,
            "interval": interval_of(pooled),
            "by_seed": by_seed,
            "difference": difference,
            "effects": verdicts.count("effect"),
        }


def pool(runs: Sequence[dict[Key, float]]) -> dict[Key, float]:
    """Return the mean score of each trial over the runs that tested it, or NaN if every run has NaN."""
    values: dict[Key, list[float]] = {}
    for run in runs:
        for key, value in run.items():
            values.setdefault(key, []).append(value)
    return {key: float(np.mean(defined)) if (defined := np.array(v)[np.isfinite(v)]).size else np.nan
            for key, v in values.items()}  # fmt: skip


def interval_of(scores: dict[Key, float]) -> Interval:
    """Return the mean over trials with its interval, resampling songs and listeners if there are several of each."""
    songs, listeners, _ = zip(*scores, strict=True)
    # Resampling a single song or listener would give an interval of width 0.
    over = "both" if len(set(songs)) > 1 < len(set(listeners)) else "songs" if len(set(songs)) > 1 else "listeners"
    return cast(Interval, bootstrap(np.array(list(scores.values())), songs, listeners, over))


TABLES = StudyTables(ITEMS, EXPLANATION, scores_of_run, read_scores, rows_of_setting)
