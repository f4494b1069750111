"""What a study shows of tasks that score trials: means over trials, each averaged over the runs that tested it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.intervals import Interval, bootstrap
from training.study_runs import FinishedRun, StudyTables, long_scores

ITEMS = ("channel", "trials")  # what a row is of, and what was scored
EXPLAINED = (
    "Means are over all trials that some run tested, each averaged over seeds; brackets hold 95 % intervals over "
    "songs and listeners of these trials, not over runs, which share their data. Differences are from the first "
    "setting, trial by trial."
)
Key = tuple[str, str, str]  # song, listener, trial


def scores_of_run(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Every score of one run, long."""
    return [
        row
        for name, channel in facts["test"]["channels"].items()
        for row in long_scores(name, {"model": channel["model"], **channel["baselines"]})
    ]


def read_scores(path: Path) -> dict[tuple[str, str], dict[Key, float]]:
    """Scores of trials by (channel, score), then by (song, listener, trial): the float columns of the predictions."""
    table = pq.read_table(path)
    names = [field.name for field in table.schema if pa.types.is_floating(field.type) and field.name != "frame_rate"]
    columns = {name: table[name].to_pylist() for name in ("song_id", "listener", "trial", "channel", *names)}
    found: dict[tuple[str, str], dict[Key, float]] = {}
    for row, channel in enumerate(columns["channel"]):
        key = columns["song_id"][row], columns["listener"][row], columns["trial"][row]
        for name in names:
            value = columns[name][row]
            found.setdefault((channel, name), {})[key] = np.nan if value is None else value
    return found


def rows_of_setting(runs: Sequence[FinishedRun], reference: Sequence[FinishedRun]) -> Iterator[dict[str, Any]]:
    """A channel and per-trial score each: the pooled mean with its interval, its values by seed, the difference from
    the first setting, and how often the verdict was an effect."""
    for channel, score in runs[0].scores:
        pooled = pool([run.scores[channel, score] for run in runs])
        others = pool([run.scores[channel, score] for run in reference])
        shared = [key for key in pooled if key in others]
        differs = bool(shared) and runs != reference
        difference = asdict(interval_of({key: pooled[key] - others[key] for key in shared})) if differs else None
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
    """Scores of all trials that some run tested, each the mean over the runs that did; NaN where none is defined."""
    values: dict[Key, list[float]] = {}
    for run in runs:
        for key, value in run.items():
            values.setdefault(key, []).append(value)
    return {key: float(np.mean(defined)) if (defined := np.array(v)[np.isfinite(v)]).size else np.nan
            for key, v in values.items()}  # fmt: skip


def interval_of(scores: dict[Key, float]) -> Interval:
    """The interval of a mean over trials, over songs and listeners, or the one of which there are several."""
    songs, listeners, _ = zip(*scores, strict=True)
    over = "both" if len(set(songs)) > 1 < len(set(listeners)) else "songs" if len(set(songs)) > 1 else "listeners"
    return cast(Interval, bootstrap(np.array(list(scores.values())), songs, listeners, over))


TABLES = StudyTables(ITEMS, EXPLAINED, scores_of_run, read_scores, rows_of_setting)
