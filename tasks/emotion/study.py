"""Combine the scores of several runs on emotions.

Scores are averaged over runs within each resample of dialogues, and so are differences between two settings: intervals
are over dialogues, and both settings are scored on the same ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.confusion import DialogueResamples, ResampledScores
from training.study_runs import FinishedRun, StudyTables, by_seed, long_scores, mean_over_runs

# N rows, S resamples

ITEMS = ("head", "utterances")
EXPLAINED = (
    "Means are over runs, each with its own scores of all utterances of the test; brackets hold 95 % intervals over "
    "these dialogues, not over runs, which share their data. Effects are runs that are better than all of their "
    "baselines, by the rule of their reports. Differences are from the first setting, where both scored the same "
    "utterances."
)


def scores_of_run(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """List the scores of one run: those of the model, of its baselines, and of itself with fewer modalities."""
    return [
        row
        for head, assessed in facts["test"]["heads"].items()
        for row in long_scores(
            head,
            {"model": assessed["scores"]}
            | {who: rival["scores"] for who, rival in (assessed["baselines"] | assessed["ablations"]).items()},
        )
    ]


def read_scores(path: Path) -> pa.Table:
    """Read id, dialogue, and the true and the predicted class of each head, in the order of the ids."""
    table = pq.read_table(path)
    return table.select([name for name in table.column_names if not name.startswith("p_")]).sort_by("utterance_id")


def rows_of_setting(runs: Sequence[FinishedRun], reference: Sequence[FinishedRun]) -> Iterator[dict[str, Any]]:
    """Yield one row per head and score.

    It holds the mean over runs with its interval, the values by seed, the difference from the first setting, and how
    many runs are better than all of their baselines.
    """
    rows = truth(runs[0])
    if any(truth(run) != rows for run in runs):
        raise ValueError(
            f"runs of {runs[0].cell.setting} did not score the same utterances with the same labels, so they have no "
            "mean; their scores are in each run's metrics.json"
        )
    paired = bool(reference) and runs != reference and all(truth(run) == rows for run in reference)
    resamples, every = DialogueResamples.draw(rows["dialogue"].to_pylist()), np.ones(len(rows), bool)
    for head, assessed in runs[0].facts["test"]["heads"].items():
        own = [resampled(run, head, assessed["classes"], resamples) for run in runs]
        others = [resampled(run, head, assessed["classes"], resamples) for run in reference] if paired else []
        unbeaten = [run.facts["test"]["heads"][head]["verdict"]["unbeaten"] for run in runs]
        for score in own[0]:
            values = mean_over_runs(own, score)
            difference = resamples.interval(values - mean_over_runs(others, score), every) if others else None
            yield {
                "channel": head,
                "score": score,
                "interval": resamples.interval(values, every),
                "by_seed": by_seed(runs, [scores[score][0] for scores in own]),
                "difference": None if difference is None else asdict(difference),
                "effects": unbeaten.count([]),
            }


def truth(run: FinishedRun) -> pa.Table:
    """Return the rows that a run scored, without its predictions."""
    return run.scores.drop([name for name in run.scores.column_names if name.startswith("predicted_")])


def resampled(run: FinishedRun, head: str, classes: Sequence[str], resamples: DialogueResamples) -> ResampledScores:
    """Score one run, (1 + S,): the data as they are, and each resample."""
    code = {name: place for place, name in enumerate(classes)}
    columns = (run.scores[head].to_pylist(), run.scores[f"predicted_{head}"].to_pylist())
    targets, predictions = (np.array([code[name] for name in column]) for column in columns)
    return resamples.scores(targets, predictions, len(classes), np.ones(len(targets), bool))


TABLES = StudyTables(ITEMS, EXPLAINED, scores_of_run, read_scores, rows_of_setting)
