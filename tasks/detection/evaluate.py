"""Score a detector on a split, and record how it was trained."""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.special import expit
from transformers import Trainer

from evaluation.intervals import Interval
from modeling.modeling_encoder import EncoderForAudioClassification
from system.process import one_line
from tasks.detection.baselines import (
    PlainWindows,
    WindowDescriptors,
    described,
    logistic_regression,
    plain,
    training_windows,
)
from tasks.detection.collator import SoundExtractor
from tasks.detection.columns import recordings_of
from tasks.detection.data import DetectionData, columns_there, model_scores
from tasks.detection.embedded import embed_side, embed_windows
from tasks.detection.eval_windows import ClipWindows
from tasks.detection.log_mel_head import fit_head, log_mel_frames
from tasks.detection.mining import review_csv
from tasks.detection.pretrained import frozen_encoder
from tasks.detection.records import Composition, Coverage, DetectionResults, Label, Substitution
from tasks.detection.scores import ClipScores, assess, prediction_table
from tasks.detection.trainer import TargetSoundTrainer
from training.embeddings import StoredRecords
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
    rows = columns_there(data.rows, ("clip_id", "labels", "group")).take(pa.array(test.side.clips.rows[test.readable]))
    baselines = {name: (of[side], of["validation"]) for name, of in rivals.items()}
    of_test = {name: of[side] for name, of in rivals.items()}
    scores, events = assess(test, validation, baselines, data.rule, rows, data.labels, "validation")
    results = DetectionResults(
        **vars(scores),
        target=[Label(data.labels.mids[code], data.labels.names[code]) for code in data.pools.targets],
        baselines_left_out=left_out,
        note=IN_SAMPLE if side == "validation" else None,
        encoder_gain=encoder_gain(of_test, rows),
    )
    detection = {
        "clip_seconds": data.validation.clip_seconds,
        "hop_seconds": data.hop_seconds,
        "threshold": results.threshold.value,
    }
    table = prediction_table(test, of_test, rows["clip_id"].to_pylist(), events)
    return Evaluation(results, table, model_config={"detection": detection})


def rival_scores(
    trainer: Trainer, data: DetectionData, scored: dict[str, ClipScores]
) -> tuple[dict[str, dict[str, ClipScores]], dict[str, str]]:
    """Scores of each baseline on each side that was scored, and why a baseline is left out."""
    describe = WindowDescriptors(data.train.sampling_rate)
    found = {name: described(trainer, sound_of(of.side), describe) for name, of in scored.items()}
    rivals = {"loudness": {name: replace(of, scores=found[name][:, 0], frames=None) for name, of in scored.items()}}
    wanted = training_windows(data.pools.items)
    model = trainer.model if isinstance(trainer.model, EncoderForAudioClassification) else None
    if not wanted:
        reason = "there are no training windows of both kinds to fit it on"
        fitted = ["mfcc_regression", *(["logmel_head", "encoder_regression"] if model is not None else [])]
        return rivals, dict.fromkeys(fitted, reason)
    targets = data.pools.items.targets()[[item for item, _ in wanted]]
    descriptors = {name: values[:, 1:] for name, values in found.items()}
    training = PlainWindows(plain(data.train), wanted)
    of_training = described(trainer, training, describe)[:, 1:]
    rivals["mfcc_regression"] = regression_scores(scored, of_training, targets, descriptors)
    if model is not None:
        rivals["logmel_head"] = head_scores(trainer, data.extractor, scored, training, targets)
        try:
            encoder = frozen_encoder(model, data.encoder)
        except (OSError, ValueError) as error:  # of a trained encoder, whose original is not needed for anything else
            return rivals, {"encoder_regression": one_line(error)}
        sides = {name: window_embeddings(embed_side(data.sides[name], encoder, data.extractor)) for name in scored}
        of_training = window_embeddings(embed_windows(plain(data.train), wanted, encoder, data.extractor))
        rivals["encoder_regression"] = regression_scores(scored, of_training, targets, sides)
    return rivals, {}


def sound_of(side: ClipWindows) -> PlainWindows:
    """The sound of the windows of a side."""
    return PlainWindows(plain(side.windows))


def head_scores(
    trainer: Trainer,
    extractor: SoundExtractor,
    scored: dict[str, ClipScores],
    training: PlainWindows,
    targets: np.ndarray,
) -> dict[str, ClipScores]:
    """Scores of the head of the model on log-mel, trained on training windows, on the windows of each side."""
    features = partial(log_mel_frames, extractor=extractor)
    frames = torch.from_numpy(described(trainer, training, features)).float()
    model: Any = trainer.model
    quiet = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
    predict = fit_head(frames, torch.from_numpy(targets), model.config, trainer.args.seed, bool(quiet))
    found = {}
    for name, of in scored.items():
        logits = described(trainer, sound_of(of.side), lambda audio: predict(features(audio)))
        found[name] = replace(of, scores=expit(logits[:, 0]), frames=expit(logits[:, 1:]))
    return found


def regression_scores(
    scored: dict[str, ClipScores], training: np.ndarray, targets: np.ndarray, sides: dict[str, np.ndarray]
) -> dict[str, ClipScores]:
    """Scores of a logistic regression, fit on descriptors (N, D) of training windows, on those of each side."""
    predict = logistic_regression(training, targets)
    return {name: replace(of, scores=predict(sides[name]), frames=None) for name, of in scored.items()}


def encoder_gain(rivals: dict[str, ClipScores], rows: pa.Table) -> Interval | None:
    """Average precision on embeddings minus that on MFCCs, of the rows that were scored; None without an encoder."""
    if "encoder_regression" not in rivals:
        return None
    return rivals["encoder_regression"].gain_over(rivals["mfcc_regression"], recordings_of(rows))


def window_embeddings(records: StoredRecords) -> np.ndarray:
    """The embedding of each window (N, D)."""
    return records.column("embeddings")[:, 0].astype(np.float64)


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
