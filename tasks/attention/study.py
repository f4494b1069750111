"""Combine the scores of several attention runs.

Means over runs and differences between settings are computed within each bootstrap resample of creatives. Intervals
are therefore over creatives, and the difference of two settings is paired.
"""

# Shapes: N creatives, S resamples.

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

ITEMS = ("target", "creatives")  # column headings: the subject of a row, and the scored items
EXPLANATION = (
    "Means are over runs. Each run scores all creatives of the test split. Brackets show 95 % intervals over these "
    "creatives, not over runs, because all runs share the same data. Effects count the runs that beat all of their "
    "baselines, by the rule in their reports. Differences are from the first setting and are shown if both settings "
    "scored the same creatives. For errors (MAE, RMSE), a difference below 0 is an improvement."
)


def scores_of_run(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the scores of a run's model, baselines and ablations, one row per score."""
    test = facts["test"]
    compared = test["baselines"] | test["ablations"]
    scores = {"model": test["scores"]} | {name: comparison["scores"] for name, comparison in compared.items()}
    return long_scores(test["unit"], scores)


def read_scores(path: Path) -> pa.Table:
    """Read the id, target and prediction of each creative, sorted by id, so that runs can be compared row by row."""
    return pq.read_table(path, columns=["creative_id", "target", "prediction"]).sort_by("creative_id")


def rows_of_setting(runs: Sequence[FinishedRun], reference: Sequence[FinishedRun]) -> Iterator[dict[str, Any]]:
    """Yield one row per score.

    It holds the mean over runs, the difference from the first setting, and the number of runs that beat all of their
    baselines.
    """
    creatives = runs[0].scores.drop("prediction")
    if any(run.scores.drop("prediction") != creatives for run in runs):
        raise ValueError(
            f"{runs[0].cell.setting}: the runs scored different creatives or targets, so their scores have no mean. "
            "Compare the metrics.json of each run."
        )
    # The first setting is its own reference and has no difference from itself.
    paired = bool(reference) and runs != reference
    paired = paired and all(run.scores.drop("prediction") == creatives for run in reference)
    own, reference_scores = ([resampled_scores(run) for run in each] for each in (runs, reference if paired else ()))
    for score in MORE_IS_BETTER:
        mean, reason = mean_over_runs(own, score), first_undefined(runs, score)
        difference = None
        if reference_scores:
            gain = mean - mean_over_runs(reference_scores, score)
            difference = asdict(score_interval(gain, len(creatives), reason or first_undefined(reference, score)))
        yield {
            "channel": runs[0].facts["test"]["unit"],
            "score": score,
            "interval": score_interval(mean, len(creatives), reason),
            # An undefined mean has no spread over seeds.
            "by_seed": [] if reason else by_seed(runs, [scores[score][0] for scores in own]),
            "difference": difference,
            "effects": sum(not run.facts["test"]["verdict"]["unbeaten"] for run in runs),
        }


def resampled_scores(run: FinishedRun) -> Scores:
    """Return each score of a run (1 + S,): first on the original creatives, then on each resample."""
    targets, predictions = (run.scores[name].to_numpy() for name in ("target", "prediction"))
    # The fixed seed gives every run the same resamples, which makes differences between runs paired.
    return bootstrap_scores(targets, {MODEL: predictions}, SAMPLES, seed=0)[MODEL]


def first_undefined(runs: Sequence[FinishedRun], score: str) -> str | None:
    """Return the name of the first run whose score is undefined, with the reason, or None if every run has it."""
    for run in runs:
        reasons = undefined_scores(run.scores["target"].to_numpy(), run.scores["prediction"].to_numpy())
        if score in reasons:
            return f"{run.cell.name}: {reasons[score]}"
    return None


TABLES = StudyTables(ITEMS, EXPLANATION, scores_of_run, read_scores, rows_of_setting)
