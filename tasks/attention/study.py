"""Combine the scores of several models of attention.

A mean over runs is taken within each resample of creatives, and so is a difference between two settings: intervals are
over creatives, and both settings are scored on the same ones.
"""

# N creatives, S resamples

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.regression import (
    MODEL,
    MORE_IS_BETTER,
    SAMPLES,
    Scores,
    bootstrap_scores,
    score_interval,
    undefined_scores,
)
from training.study_runs import FinishedRun, StudyTables, by_seed, long_scores, mean_over_runs

ITEMS = ("target", "creatives")  # headings: the thing that a row is about, and the items that were scored
EXPLAINED = (
    "Means are over runs, each with its own scores of all creatives of the test; brackets hold 95 % intervals over "
    "these creatives, not over runs, which share their data. Effects are runs that are better than all of their "
    "baselines, by the rule of their reports. Differences are from the first setting, where both scored the same "
    "creatives: of errors (MAE, RMSE) one below 0 is the better."
)


def scores_of_run(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every score of one run's model, baselines and ablations, one row each."""
    test = facts["test"]
    compared = test["baselines"] | test["ablations"]
    scores = {"model": test["scores"]} | {name: found["scores"] for name, found in compared.items()}
    return long_scores(test["unit"], scores)


def read_scores(path: Path) -> pa.Table:
    """Read id, target and prediction of each creative, sorted by id."""
    return pq.read_table(path, columns=["creative_id", "target", "prediction"]).sort_by("creative_id")


def rows_of_setting(runs: Sequence[FinishedRun], reference: Sequence[FinishedRun]) -> Iterator[dict[str, Any]]:
    """Yield one row per score: its mean over runs, its difference from the first setting, and the runs that are better
    than all of their baselines.
    """
    creatives = runs[0].scores.drop("prediction")
    if any(run.scores.drop("prediction") != creatives for run in runs):
        raise ValueError(
            f"runs of {runs[0].cell.setting} did not score the same creatives with the same targets, so they have no "
            "mean; their scores are in each run's metrics.json"
        )
    paired = bool(reference) and runs != reference
    paired = paired and all(run.scores.drop("prediction") == creatives for run in reference)
    own, others = ([resampled_scores(run) for run in each] for each in (runs, reference if paired else ()))
    for score in MORE_IS_BETTER:
        mean, reason = mean_over_runs(own, score), undefined_in(runs, score)
        difference = None
        if others:
            gain = mean - mean_over_runs(others, score)
            difference = asdict(score_interval(gain, len(creatives), reason or undefined_in(reference, score)))
        yield {
            "channel": runs[0].facts["test"]["unit"],
            "score": score,
            "interval": score_interval(mean, len(creatives), reason),
            # a mean that is not defined has no spread
            "by_seed": [] if reason else by_seed(runs, [scores[score][0] for scores in own]),
            "difference": difference,
            "effects": sum(not run.facts["test"]["verdict"]["unbeaten"] for run in runs),
        }


def resampled_scores(run: FinishedRun) -> Scores:
    """Return the scores (1 + S,) of one run: of the creatives as they are, then of resamples that all runs share."""
    targets, predictions = (run.scores[name].to_numpy() for name in ("target", "prediction"))
    return bootstrap_scores(targets, {MODEL: predictions}, SAMPLES, seed=0)[MODEL]


def undefined_in(runs: Sequence[FinishedRun], score: str) -> str | None:
    """Return the first run in which a score is not defined, with the reason; None if all have it."""
    for run in runs:
        reasons = undefined_scores(run.scores["target"].to_numpy(), run.scores["prediction"].to_numpy())
        if score in reasons:
            return f"{run.cell.name}: {reasons[score]}"
    return None


TABLES = StudyTables(ITEMS, EXPLAINED, scores_of_run, read_scores, rows_of_setting)
