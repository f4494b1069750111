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
    describe_windows,
    logistic_regression,
    training_windows,
    without_augmentation,
)
from tasks.detection.collator import SoundExtractor
from tasks.detection.columns import recordings_of
from tasks.detection.data import DetectionData, existing_columns, model_scores
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

SUBSTITUTES_NAMED = 100  # unreadable files in a record, most requested first
IN_SAMPLE = "The threshold was chosen on these clips, so scores at the threshold are optimistic."


def evaluate(trainer: Trainer, data: DetectionData, side: str) -> Evaluation:
    """Score one split at the threshold chosen on validation.

    The threshold and the window settings go into the config of the saved model, which then detects in any
    recording.
    """
    if side not in data.sides:
        raise ValueError(f"side={side!r}: not a scored split. Must be one of {', '.join(data.sides)}.")
    # Validation is scored in any case, to choose the threshold; only once if it is the requested split.
    names = tuple(dict.fromkeys(("validation", side)))
    scored = {
        name: model_scores(data.sides[name], trainer.predict(data.sides[name], metric_key_prefix=name))
        for name in names
    }
    all_baselines, left_out = baseline_scores(trainer, data, scored)
    test, validation = scored[side], scored["validation"]
    rows = existing_columns(data.rows, ("clip_id", "labels", "group")).take(
        pa.array(test.side.clips.rows[test.readable])
    )
    baselines = {name: (by_split[side], by_split["validation"]) for name, by_split in all_baselines.items()}
    test_baselines = {name: by_split[side] for name, by_split in all_baselines.items()}
    scores, events = assess(test, validation, baselines, data.rule, rows, data.labels, "validation")
    results = DetectionResults(
        **vars(scores),
        target=[Label(data.labels.mids[code], data.labels.names[code]) for code in data.pools.targets],
        baselines_left_out=left_out,
        note=IN_SAMPLE if side == "validation" else None,
        encoder_gain=encoder_gain(test_baselines, rows),
    )
    detection = {
        "clip_seconds": data.validation.clip_seconds,
        "hop_seconds": data.hop_seconds,
        "threshold": results.threshold.value,
    }
    table = prediction_table(test, test_baselines, rows["clip_id"].to_pylist(), events)
    return Evaluation(results, table, model_config={"detection": detection})


def baseline_scores(
    trainer: Trainer, data: DetectionData, scored: dict[str, ClipScores]
) -> tuple[dict[str, dict[str, ClipScores]], dict[str, str]]:
    """Score every baseline on every scored split; returns the scores, and why a baseline was left out."""
    describe = WindowDescriptors(data.train.sampling_rate)
    descriptions = {name: describe_windows(trainer, audio_of(of.side), describe) for name, of in scored.items()}
    baselines = {
        "loudness": {name: replace(of, scores=descriptions[name][:, 0], frames=None) for name, of in scored.items()}
    }
    wanted = training_windows(data.pools.items)
    model = trainer.model if isinstance(trainer.model, EncoderForAudioClassification) else None
    if not wanted:
        reason = "fitting needs training windows with and without the target"
        # Loudness is the only baseline that needs no fitting.
        fitted = ["mfcc_regression", *(["logmel_head", "encoder_regression"] if model is not None else [])]
        return baselines, dict.fromkeys(fitted, reason)
    targets = data.pools.items.targets()[[item for item, _ in wanted]]
    descriptors = {name: values[:, 1:] for name, values in descriptions.items()}
    training = PlainWindows(without_augmentation(data.train), wanted)
    training_descriptors = describe_windows(trainer, training, describe)[:, 1:]
    baselines["mfcc_regression"] = regression_scores(scored, training_descriptors, targets, descriptors)
    if model is not None:
        baselines["logmel_head"] = head_scores(trainer, data.extractor, scored, training, targets)
        try:
            encoder = frozen_encoder(model, data.encoder)
        except (OSError, ValueError) as error:
            # Only this baseline needs the original weights of a fine-tuned encoder, so the evaluation continues
            # without it.
            return baselines, {"encoder_regression": one_line(error)}
        sides = {name: window_embeddings(embed_side(data.sides[name], encoder, data.extractor)) for name in scored}
        training_descriptors = window_embeddings(
            embed_windows(without_augmentation(data.train), wanted, encoder, data.extractor)
        )
        baselines["encoder_regression"] = regression_scores(scored, training_descriptors, targets, sides)
    return baselines, {}


def audio_of(side: ClipWindows) -> PlainWindows:
    """Return the audio of the windows of a split."""
    return PlainWindows(without_augmentation(side.windows))


def head_scores(
    trainer: Trainer,
    extractor: SoundExtractor,
    scored: dict[str, ClipScores],
    training: PlainWindows,
    targets: np.ndarray,
) -> dict[str, ClipScores]:
    """Train the model's head on log-mel features of the training windows and score each split with it."""
    features = partial(log_mel_frames, extractor=extractor)
    frames = torch.from_numpy(describe_windows(trainer, training, features)).float()
    model: Any = trainer.model
    quiet = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
    predict = fit_head(frames, torch.from_numpy(targets), model.config, trainer.args.seed, bool(quiet))
    scores = {}
    for name, of in scored.items():
        logits = describe_windows(trainer, audio_of(of.side), lambda audio: predict(features(audio)))
        scores[name] = replace(of, scores=expit(logits[:, 0]), frames=expit(logits[:, 1:]))
    return scores


def regression_scores(
    scored: dict[str, ClipScores], training: np.ndarray, targets: np.ndarray, sides: dict[str, np.ndarray]
) -> dict[str, ClipScores]:
    """Fit a logistic regression on descriptors (N, D) of training windows and score each split with it."""
    predict = logistic_regression(training, targets)
    return {name: replace(of, scores=predict(sides[name]), frames=None) for name, of in scored.items()}


def encoder_gain(baselines: dict[str, ClipScores], rows: pa.Table) -> Interval | None:
    """Return the gain in average precision of embeddings over MFCCs, or None without an encoder."""
    if "encoder_regression" not in baselines:
        return None
    return baselines["encoder_regression"].gain_over(baselines["mfcc_regression"], recordings_of(rows))


def window_embeddings(records: StoredRecords) -> np.ndarray:
    """Return the embedding of each window (N, D)."""
    return records.column("embeddings")[:, 0].astype(np.float64)


def about_training(trainer: TargetSoundTrainer, data: DetectionData) -> dict[str, Any]:
    """Return planned and served windows, labels covered, negatives mined, and files that could not be read."""
    served, plan, items = trainer.served, trainer.plan, data.pools.items
    batches = round((trainer.state.epoch or 0) * len(plan))  # not whole epochs: a run may stop within one
    planned = {name: count * batches for name, count in Counter(plan.tier_names).items()}
    negatives = np.unique(data.pools.strong.labels)
    unseen = [data.labels.names[label] for label in negatives if not served.seen[label]]
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
        "coverage": Coverage(len(negatives), len(negatives) - len(unseen), plan.rounds, unseen),
        "mining": [] if trainer.mining is None else trainer.mining.history,
        "substitutions": [
            Substitution(ids[int(items.clip[item])].as_py(), times, data.train.failure_of((item, 0)))
            for item, times in served.substituted.most_common(SUBSTITUTES_NAMED)
        ],
    }


def extra_pages(trainer: TargetSoundTrainer, data: DetectionData) -> dict[str, str]:
    """Return review.csv: negatives that may be unlabelled targets, for people to listen to."""
    if trainer.mining is None:
        return {}
    columns = ["clip_id", "start_seconds", "labels"]
    table = data.rows.select_columns(columns).data.table
    return {"review.csv": review_csv(trainer.mining, table, data.labels)}
