"""Study tables of detectors: measures over all test clips, per run, averaged over runs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.detection_runs import bootstrap_runs
from training.study_runs import FinishedRun, StudyTables, by_seed, long_scores

ITEMS = ("target", "clips")  # name of a table row, and of the scored items
EXPLAINED = (
    "Means are over runs; each run scores all test clips. Brackets show 95 % intervals over clips, not over runs, "
    "because the runs share their data. Differences are relative to the first setting, if both scored the same clips "
    "for the same target."
)


def target_of(facts: dict[str, Any]) -> str:
    """Return the names of a run's target labels."""
    return " or ".join(target["name"] for target in facts["test"]["target"])


def scores_of_run(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all scores of one run in long format."""
    return long_scores(target_of(facts), {"model": facts["test"]["scores"], **facts["test"]["baselines"]})


def read_scores(path: Path) -> pa.Table:
    """Read id, target and score of each readable clip, sorted by id."""
    return pq.read_table(path, columns=["clip_id", "target", "score"]).sort_by("clip_id")


def rows_of_setting(runs: Sequence[FinishedRun], reference: Sequence[FinishedRun]) -> Iterator[dict[str, Any]]:
    """Yield one row per measure: mean over runs, interval, values by seed, difference from the first setting."""
    clips = runs[0].scores.drop("score")
    if any(run.scores.drop("score") != clips for run in runs):
        raise ValueError(
            f"setting={runs[0].cell.setting}: its runs scored different clips or targets, so they have no mean. See "
            "the scores in each run's metrics.json."
        )
    targets = clips["target"].to_numpy(zero_copy_only=False)
    scores, reference_scores = ([run.scores["score"].to_numpy() for run in group] for group in (runs, reference))
    paired = runs != reference and all(run.scores.drop("score") == clips for run in reference)
    measures = bootstrap_runs(scores, targets)
    differences = bootstrap_runs(scores, targets, reference_scores) if reference_scores and paired else {}
    for name, interval in measures.items():
        yield {
            "channel": target_of(runs[0].facts),
            "score": name,
            "interval": interval,
            "by_seed": by_seed(runs, [run.facts["test"]["scores"][name]["mean"] for run in runs]),
            "difference": asdict(differences[name]) if differences else None,
            "effects": None,
        }


TABLES = StudyTables(ITEMS, EXPLAINED, scores_of_run, read_scores, rows_of_setting)
