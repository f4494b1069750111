"""Score a detector on a split, and record how it was trained."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import Trainer

from tasks.detection.baselines import PlainWindows, described, mfcc_regression, plain, training_windows
from tasks.detection.data import DetectionData, model_scores
from tasks.detection.mining import review_csv
from tasks.detection.records import Composition, Coverage, DetectionResults, Label, Substitution
from tasks.detection.scores import ClipScores, assess, prediction_table
from tasks.detection.trainer import TargetSoundTrainer
from training.task import Evaluation

SUBSTITUTES_NAMED = 100  # bad files that a report lists, the most asked for first
IN_SAMPLE = "The threshold was chosen on these very clips, which flatters what is measured at it."


def evaluate(trainer: Trainer, data: DetectionData, side: str) -> Evaluation:
    """Score one side at the threshold that validation chooses.

    The threshold and the windows belong in the config of the saved model, which then detects in any recording.
    """
    if side not in data.sides:
        raise ValueError(f"side {side!r} is not scored by clip; take one of {', '.join(data.sides)}")
    names = tuple(dict.fromkeys(("validation", side)))
    scored = {
        name: model_scores(data.sides[name], trainer.predict(data.sides[name], metric_key_prefix=name))
        for name in names
    }
    rivals, left_out = rival_scores(trainer, data, scored)
    test, validation = scored[side], scored["validation"]
    table = data.rows.select_columns(
        [name for name in ("clip_id", "labels", "group") if name in data.rows.column_names]
    ).data.table
    rows = table.take(pa.array(test.side.clips.rows[test.readable]))
    baselines = {name: (of[side], of["validation"]) for name, of in rivals.items()}
    scores, events = assess(test, validation, baselines, data.rule, rows, data.labels, "validation")
    results = DetectionResults(
        **vars(scores),
        target=[Label(data.labels.mids[code], data.labels.names[code]) for code in data.pools.targets],
        baselines_left_out=left_out,
        note=IN_SAMPLE if side == "validation" else None,
    )
    detection = {
        "clip_seconds": data.validation.clip_seconds,
        "hop_seconds": data.hop_seconds,
        "threshold": results.threshold.value,
    }
    rivals_of_test = {name: of[side] for name, of in rivals.items()}
    table = prediction_table(test, rivals_of_test, rows["clip_id"].to_pylist(), events)
    return Evaluation(results, table, model_config={"detection": detection})


def rival_scores(
    trainer: Trainer, data: DetectionData, scored: dict[str, ClipScores]
) -> tuple[dict[str, dict[str, ClipScores]], dict[str, str]]:
    """Scores of each baseline on each side that was scored, and why a baseline is left out."""
    rate = data.train.sampling_rate
    found = {name: described(trainer, PlainWindows(data.sides[name]), rate) for name in scored}
    rivals = {"loudness": {name: replace(of, scores=found[name][:, 0], frames=None) for name, of in scored.items()}}
    wanted = training_windows(data.pools.items)
    if not wanted:
        return rivals, {"mfcc_regression": "there are no training windows of both kinds to fit it on"}
    descriptors = described(trainer, PlainWindows(plain(data.train), wanted), rate)
    targets = data.pools.items.targets()[[item for item, _ in wanted]]
    predict = mfcc_regression(descriptors[:, 1:], targets)
    rivals["mfcc_regression"] = {
        name: replace(of, scores=predict(found[name][:, 1:]), frames=None) for name, of in scored.items()
    }
    return rivals, {}


def about_training(trainer: TargetSoundTrainer, data: DetectionData) -> dict[str, Any]:
    """Return planned and served windows, labels covered, negatives mined, and files that could not be read."""
    served, plan, items = trainer.served, trainer.plan, data.pools.items
    batches = round((trainer.state.epoch or 0) * len(plan))  # a run may end within an epoch
    planned = {name: count * batches for name, count in Counter(plan.tier_names).items()}
    negatives = np.unique(data.pools.strong.labels)
    never = [data.labels.names[label] for label in negatives if not served.seen[label]]
    ids = data.rows.select_columns(["clip_id"]).data.table["clip_id"]
    return {
        "length": trainer.length,
        "composition": Composition(
            planned=planned,
            served={name: served.counts[name] for name in planned},
            explicit=served.counts["explicit"],
            hard=served.counts["hard"],
            substituted=served.counts["substituted"],
            mixed=served.counts["mixed"],
        ),
        "coverage": Coverage(len(negatives), len(negatives) - len(never), plan.rounds, never),
        "mining": [] if trainer.mining is None else trainer.mining.history,
        "substitutions": [
            Substitution(ids[int(items.clip[item])].as_py(), times, data.train.failure_of((item, 0)))
            for item, times in served.substituted.most_common(SUBSTITUTES_NAMED)
        ],
    }


def extra_pages(trainer: TargetSoundTrainer, data: DetectionData) -> dict[str, str]:
    """The negatives that may be targets nobody labelled, for people to hear."""
    if trainer.mining is None:
        return {}
    columns = ["clip_id", "start_seconds", "labels"]
    table = data.rows.select_columns(columns).data.table
    return {"review.csv": review_csv(trainer.mining, table, data.labels)}
