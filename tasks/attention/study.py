"""What a study shows of models of attention: scores of all creatives of the test, each run's own, averaged over runs.

A mean over runs is taken within each resample of creatives, and so is a difference between two settings: intervals are
over creatives, and both settings are scored on the same ones.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.intervals import Interval
from evaluation.regression import MORE_IS_BETTER, SAMPLES, Scores, drawn_weights, record, scores_of, undefined
from training.study_runs import FinishedRun, StudyTables, by_seed, long_scores, mean_over_runs

# N creatives, S resamples


ITEMS = ("target", "creatives")  # what a row is of, and what was scored
EXPLAINED = (
    "Means are over runs, each with its own scores of all creatives of the test; brackets hold 95 % intervals over "
    "these creatives, not over runs, which share their data. Effects are runs that are better than all of their "
    "baselines, by the rule of their reports. Differences are from the first setting, where both scored the same "
    "creatives: of errors (MAE, RMSE) one below 0 is the better."
)


def scores_of_run(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Every score of one run, long: those of the model, of its baselines, and of itself with less to go by."""
    test = facts["test"]
    others = test["baselines"] | test["ablations"]
    return long_scores(
        test["unit"], {"model": test["scores"]} | {who: other["scores"] for who, other in others.items()}
    )


def read_scores(path: Path) -> pa.Table:
    """Id, target and prediction of each creative, by id."""
    return pq.read_table(path, columns=["creative_id", "target", "prediction"]).sort_by("creative_id")


def rows_of_setting(runs: Sequence[FinishedRun], reference: Sequence[FinishedRun]) -> Iterator[dict[str, Any]]:
    """A score each: its mean over runs with its interval, its values by seed, the difference from the first setting,
    and how many runs are better than all of their baselines."""
    creatives = runs[0].scores.drop("prediction")
    if any(run.scores.drop("prediction") != creatives for run in runs):
        raise ValueError(
            f"runs of {runs[0].cell.setting} did not score the same creatives with the same targets, so they have no "
            "mean; their scores are in each run's metrics.json"
        )
    paired = bool(reference) and runs != reference
    paired = paired and all(run.scores.drop("prediction") == creatives for run in reference)
    own, others = ([resampled(run) for run in each] for each in (runs, reference if paired else ()))
    for score in MORE_IS_BETTER:
        values, why = mean_over_runs(own, score), reason(runs, score)
        gain = values - mean_over_runs(others, score) if others else None
        yield {
            "channel": runs[0].facts["test"]["unit"],
            "score": score,
            "interval": Interval(**record(values, len(creatives), why)),
            # of a mean that is not defined there is no spread
            "by_seed": [] if why else by_seed(runs, [found[score][0] for found in own]),
            "difference": None if gain is None else record(gain, len(creatives), why or reason(reference, score)),
            "effects": sum(not run.facts["test"]["verdict"]["unbeaten"] for run in runs),
        }


def resampled(run: FinishedRun) -> Scores:
    """Scores (1 + S,) of one run: of the creatives as they are, and of each resample, the same ones for all runs."""
    targets, predictions = (run.scores[name].to_numpy() for name in ("target", "prediction"))
    weights = (np.ones((1, len(targets))), *drawn_weights(len(targets), SAMPLES, seed=0))
    blocks = [scores_of(targets, predictions, some) for some in weights]
    return {score: np.concatenate([block[score] for block in blocks]) for score in MORE_IS_BETTER}


def reason(runs: Sequence[FinishedRun], score: str) -> str | None:
    """Why a score has no mean over these runs: the first of them that has none."""
    for run in runs:
        missing = undefined(run.scores["target"].to_numpy(), run.scores["prediction"].to_numpy())
        if score in missing:
            return f"{run.cell.name}: {missing[score]}"
    return None


TABLES = StudyTables(ITEMS, EXPLAINED, scores_of_run, read_scores, rows_of_setting)
