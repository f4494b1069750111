"""What a study shows of detectors: measures of all clips of the test, each run's own, averaged over runs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.detection_runs import bootstrap_runs
from training.study_runs import FinishedRun, StudyTables, by_seed, long_scores

ITEMS = ("target", "clips")  # what a row is of, and what was scored
EXPLAINED = (
    "Means are over runs, each with its own scores of all clips of the test; brackets hold 95 % intervals over these "
    "clips, not over runs, which share their data. Differences are from the first setting, where both scored the same "
    "clips for the same target."
)


def target_of(facts: dict[str, Any]) -> str:
    """What people call the target of a run."""
    return " or ".join(target["name"] for target in facts["test"]["target"])


def scores_of_run(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Every score of one run, long."""
    return long_scores(target_of(facts), {"model": facts["test"]["scores"], **facts["test"]["baselines"]})


def read_scores(path: Path) -> pa.Table:
    """Id, target and score of each readable clip, by id."""
    return pq.read_table(path, columns=["clip_id", "target", "score"]).sort_by("clip_id")


def rows_of_setting(runs: Sequence[FinishedRun], reference: Sequence[FinishedRun]) -> Iterator[dict[str, Any]]:
    """A measure each: its mean over runs with its interval, its values by seed, and the difference from the first
    setting."""
    clips = runs[0].scores.drop("score")
    if any(run.scores.drop("score") != clips for run in runs):
        raise ValueError(
            f"runs of {runs[0].cell.setting} did not score the same clips for the same target, so they have no mean; "
            "their scores are in each run's metrics.json"
        )
    targets = clips["target"].to_numpy(zero_copy_only=False)
    scores, others = ([run.scores["score"].to_numpy() for run in each] for each in (runs, reference))
    paired = runs != reference and all(run.scores.drop("score") == clips for run in reference)
    found = bootstrap_runs(scores, targets)
    differences = bootstrap_runs(scores, targets, others) if others and paired else {}
    for name, interval in found.items():
        yield {
            "channel": target_of(runs[0].facts),
            "score": name,
            "interval": interval,
            "by_seed": by_seed(runs, [run.facts["test"]["scores"][name]["mean"] for run in runs]),
            "difference": asdict(differences[name]) if differences else None,
            "effects": None,
        }


TABLES = StudyTables(ITEMS, EXPLAINED, scores_of_run, read_scores, rows_of_setting)
