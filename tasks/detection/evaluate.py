"""Score a detector on a split, and record how it was trained."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from tasks.detection.data import DetectionData, model_scores
from tasks.detection.eval_windows import ClipWindows, WindowLoudness
from tasks.detection.mining import review_csv
from tasks.detection.records import Composition, Coverage, DetectionResults, Label, Substitution
from tasks.detection.scores import ClipScores, assess, prediction_table
from tasks.detection.trainer import TargetSoundTrainer
from training.task import Evaluation
from training.workers import sharing_files

SUBSTITUTES_NAMED = 100  # bad files that a report lists, the most asked for first
IN_SAMPLE = "The threshold was chosen on these very clips, which flatters what is measured at it."


def evaluate(trainer: Trainer, data: DetectionData, side: str) -> Evaluation:
    """Score one side at the threshold that validation chooses.

    The threshold and the windows belong in the config of the saved model, which then detects in any recording.
    """
    if side not in data.sides:
        raise ValueError(f"side {side!r} is not scored by clip; take one of {', '.join(data.sides)}")
    scored = {name: score_side(trainer, data.sides[name], name) for name in dict.fromkeys(("validation", side))}
    (test, loud), (validation, loud_validation) = scored[side], scored["validation"]
    table = data.rows.select_columns(["clip_id", "labels"]).data.table
    rows = table.take(pa.array(test.side.clips.rows[test.readable]))
    scores, events = assess(test, validation, (loud, loud_validation), data.rule, rows, data.labels, "validation")
    results = DetectionResults(
        **vars(scores),
        target=[Label(data.labels.mids[code], data.labels.names[code]) for code in data.pools.targets],
        note=IN_SAMPLE if side == "validation" else None,
    )
    detection = {
        "clip_seconds": data.validation.clip_seconds,
        "hop_seconds": data.hop_seconds,
        "threshold": results.threshold.value,
    }
    table = prediction_table(test, loud, rows["clip_id"].to_pylist(), events)
    return Evaluation(results, table, model_config={"detection": detection})


def score_side(trainer: Trainer, side: ClipWindows, name: str) -> tuple[ClipScores, ClipScores]:
    """Return the scores of the model, and the loudness of the same windows as if it were one."""
    model = model_scores(side, trainer.predict(side, metric_key_prefix=name))
    return model, replace(model, scores=loudness_of(trainer, side), frames=None)


def loudness_of(trainer: Trainer, side: ClipWindows) -> np.ndarray:
    """Return the loudness (N,) of all windows in dB, read once more, by the workers of all processes."""
    args, accelerator = trainer.args, trainer.accelerator
    loader = DataLoader(
        WindowLoudness(side),
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
    )
    batches: list[Any] = [
        accelerator.gather_for_metrics(batch) for batch in sharing_files(accelerator.prepare(loader))
    ]
    return torch.cat(batches).cpu().numpy().astype(np.float64)


def about_training(trainer: TargetSoundTrainer, data: DetectionData) -> dict[str, Any]:
    """Return planned and served windows, labels covered, negatives mined, and files that could not be read."""
    served, plan, items = trainer.served, trainer.plan, data.pools.items
    batches = round((trainer.state.epoch or 0) * len(plan))  # a run may end within an epoch
    planned = {name: count * batches for name, count in Counter(plan.tier_names).items()}
    negatives = np.unique(data.pools.strong.labels)
    never = [data.labels.names[label] for label in negatives if not served.seen[label]]
    ids = data.rows.select_columns(["clip_id"]).data.table["clip_id"]
    return {
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
