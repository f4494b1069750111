"""Combine the scores of several emotion runs.

Means over runs and differences between settings are computed within each bootstrap resample of dialogues. Intervals
are therefore over dialogues, and the difference of two settings is paired.
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

# Shapes: N rows, S resamples.

ITEMS = ("head", "utterances")  # column headings: the subject of a row, and the scored items
EXPLANATION = (
    "Means are over runs. Each run scores all utterances of the test split. Brackets show 95 % intervals over the "
    "dialogues of the test split, not over runs, because all runs share the same data. Effects count the runs that "
    "beat all of their baselines, by the rule in their reports. Differences are from the first setting and are shown "
    "if both settings scored the same utterances."
)


def scores_of_run(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the scores of a run's model, baselines and ablations, one row per score."""
    return [
        row
        for head, results in facts["test"]["heads"].items()
        for row in long_scores(
            head,
            {"model": results["scores"]}
            | {name: other["scores"] for name, other in (results["baselines"] | results["ablations"]).items()},
        )
    ]


def read_scores(path: Path) -> pa.Table:
    """Read the id, dialogue, true and predicted classes of each utterance, sorted by id to compare runs."""
    table = pq.read_table(path)
    return table.select([name for name in table.column_names if not name.startswith("p_")]).sort_by("utterance_id")


def rows_of_setting(runs: Sequence[FinishedRun], reference: Sequence[FinishedRun]) -> Iterator[dict[str, Any]]:
    """Yield one row per head and score.

    It holds the mean over runs with its interval, the values by seed, the difference from the first setting, and the
    number of runs that beat all of their baselines.
    """
    rows = scored_rows(runs[0])
    if any(scored_rows(run) != rows for run in runs):
        raise ValueError(
            f"{runs[0].cell.setting}: the runs scored different utterances or labels, so their scores have no mean. "
            "Compare the metrics.json of each run."
        )
    # The first setting is its own reference and has no difference from itself.
    paired = bool(reference) and runs != reference and all(scored_rows(run) == rows for run in reference)
    # All runs share the resamples, which makes differences between runs paired.
    resamples, all_rows = DialogueResamples.draw(rows["dialogue"].to_pylist()), np.ones(len(rows), bool)
    for head, results in runs[0].facts["test"]["heads"].items():
        classes = results["classes"]
        own = [resampled_scores(run, head, classes, resamples) for run in runs]
        reference_scores = [resampled_scores(run, head, classes, resamples) for run in reference] if paired else []
        unbeaten = [run.facts["test"]["heads"][head]["verdict"]["unbeaten"] for run in runs]
        for score in own[0]:
            values = mean_over_runs(own, score)
            difference = None
            if reference_scores:
                difference = resamples.interval(values - mean_over_runs(reference_scores, score), all_rows)
            yield {
                "channel": head,
                "score": score,
                "interval": resamples.interval(values, all_rows),
                "by_seed": by_seed(runs, [scores[score][0] for scores in own]),
                "difference": None if difference is None else asdict(difference),
                "effects": unbeaten.count([]),  # runs without an unbeaten baseline
            }


def scored_rows(run: FinishedRun) -> pa.Table:
    """Return the utterances that a run scored, with their labels and without its predictions."""
    return run.scores.drop([name for name in run.scores.column_names if name.startswith("predicted_")])


def resampled_scores(
    run: FinishedRun, head: str, classes: Sequence[str], resamples: DialogueResamples
) -> ResampledScores:
    """Return each score of a run (1 + S,): first on the original rows, then on each resample."""
    code = {name: index for index, name in enumerate(classes)}
    columns = (run.scores[head].to_pylist(), run.scores[f"predicted_{head}"].to_pylist())
    targets, predictions = (np.array([code[name] for name in column]) for column in columns)
    return resamples.scores(targets, predictions, len(classes), np.ones(len(targets), bool))


TABLES = StudyTables(ITEMS, EXPLANATION, scores_of_run, read_scores, rows_of_setting)
