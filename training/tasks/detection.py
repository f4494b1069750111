"""A target sound among millions: what is a negative, how batches are made of it, and how a detector is scored."""

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    EvalPrediction,
    FeatureExtractionMixin,
    PreTrainedModel,
    Trainer,
)
from transformers.trainer_utils import PredictionOutput

from evaluation.detection import average_precision, check_rule, roc_auc
from media.ontology import Labels, ontology_from_labels
from training import study_of_clips
from training.arguments import Run
from training.augmentation import Augmentation
from training.build import OUR_TYPES, build_extractor, read_companion
from training.clip_scores import ClipScores, assess, prediction_table
from training.clip_split import ClipSplit
from training.clip_windows import ClipWindows
from training.collators import DetectionCollator
from training.detecting import Detections, detect
from training.mining import MiningSettings, MiningTable, review_csv
from training.pools import ClipPools, PoolSettings, build_pools
from training.prediction import SUFFIXES as SOUND_SUFFIXES
from training.prediction import write_predictions
from training.target_trainer import TargetSoundTrainer
from training.two_tier import SamplerSettings, TwoTierBatchSampler
from training.windows import AudioSetWindows, WindowSettings

logger = logging.getLogger(__name__)

SCALED_ON = 512  # windows whose features give a new model the level and spread of its input
SMALLEST_FEATURE_DEVIATION = 1e-3  # dB; a feature that varies less is a constant, and is centred only
SUBSTITUTES_NAMED = 100  # bad files that a report lists, the most asked for first
IN_SAMPLE = "The threshold was chosen on these very clips, which flatters what is measured at it."


@dataclass(frozen=True)
class ScoreSettings:
    """How clips are scored."""

    hop_seconds: float = field(
        default=0.5, metadata={"help": "Windows that are scored begin this much after each other, s."}
    )
    threshold_rule: str = field(
        default="f1",
        metadata={
            "help": "How the threshold is chosen on validation: f1 (the largest), recall:0.9 (the highest that keeps "
            "it), false_alarms:10 (the lowest with at most so many an hour)."
        },
    )

    def __post_init__(self) -> None:
        if not self.hop_seconds > 0:
            raise ValueError(f"hop_seconds = {self.hop_seconds} must be above 0")
        check_rule(self.threshold_rule)


ARGUMENTS = (PoolSettings, WindowSettings, Augmentation, SamplerSettings, MiningSettings, ScoreSettings)
COLUMNS = (
    "clip_id", "subset", "part", "start_seconds", "end_seconds", "labels", "events", "strongly_labelled", "audio",
    "audio_seconds", "defects", "synthetic",
)  # fmt: skip
STREAMED = ()
NOT_STREAMED = "its clips are files, each fetched ahead of its use already"
AUTO_MODEL, MODELS = AutoModelForAudioClassification, tuple(AutoModelForAudioClassification._model_mapping)
AUTO_EXTRACTOR = AutoFeatureExtractor
SUFFIXES, OUTPUT_SUFFIX = SOUND_SUFFIXES, ".csv"  # of recordings, and of what is said of them
PREDICTION_OPTIONS: tuple[str, ...] = ("threshold",)  # of run_predict.py, beside those of every task
TRAINER = TargetSoundTrainer
STUDY = study_of_clips
VALIDATION_METRICS = {"average_precision": True, "roc_auc": True, "loss": False}  # name -> whether more is better


@dataclass(frozen=True)
class DetectionData:
    """A data set's clips as pools to draw from and sides to score."""

    rows: datasets.Dataset
    labels: Labels
    pools: ClipPools
    split: ClipSplit
    train: AudioSetWindows
    sides: dict[str, ClipWindows]
    extractor: FeatureExtractionMixin
    hop_seconds: float  # between windows that are scored
    rule: str  # by which the threshold is chosen

    @property
    def validation(self) -> ClipWindows:
        """What checkpoints and thresholds are chosen on."""
        return self.sides["validation"]

    def target_names(self) -> list[str]:
        """What people call the target."""
        return [self.labels.names[code] for code in self.pools.targets]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Average precision and area under the ROC curve over clips: to choose a checkpoint by."""
        scores, _ = model_and_loudness(self.validation, output)
        return {
            "average_precision": average_precision(scores.clip_scores, scores.targets),
            "roc_auc": roc_auc(scores.clip_scores, scores.targets),
        }

    def record(self) -> dict[str, Any]:
        """What was left out, by which rule, and what each side holds."""
        return {
            "clips": self.pools.counts,
            "rules": self.pools.rules,
            "trim": self.pools.trim,
            "sides": self.split.sides,
            "split_warning": None,
            "control": None,
        }


def features(run: Run) -> FeatureExtractionMixin:
    """What makes a model's inputs of sound."""
    return build_extractor(run.arguments, **feature_settings(run))


def feature_settings(run: Run) -> dict[str, Any]:
    """What the task demands of the audio features: the windows' rate, and a spectrum a frame for our own models."""
    settings = {"sampling_rate": run.settings(WindowSettings).sampling_rate}
    return settings | ({"frame_rate": None} if run.arguments.model_type in OUR_TYPES else {})


def prepare(
    rows: datasets.Dataset, extractor: FeatureExtractionMixin, run: Run, saved: dict[str, Any] | None = None
) -> DetectionData:
    """Pools, sides and the windows of both."""
    labels, pools = clip_pools(rows, run)
    windows, scores = run.settings(WindowSettings), run.settings(ScoreSettings)
    seconds, rate = windows.clip_seconds, windows.sampling_rate
    if scores.hop_seconds > seconds:
        raise ValueError(
            f"hop_seconds = {scores.hop_seconds} is more than clip_seconds = {seconds}: sound between windows would "
            "not be heard; lower it"
        )
    sides = {side: ClipWindows(rows, clips, seconds, scores.hop_seconds, rate) for side, clips in pools.sides.items()}
    check_sides(sides)
    train = AudioSetWindows(rows, pools.items, seconds, rate, run.settings(Augmentation))
    split = ClipSplit.of(rows, pools, run.settings(PoolSettings))
    data = DetectionData(
        rows, labels, pools, split, train, sides, extractor, scores.hop_seconds, scores.threshold_rule
    )
    log_what_was_kept(data)
    return data


def clip_pools(rows: datasets.Dataset, run: Run) -> tuple[Labels, ClipPools]:
    """The vocabulary of a data set, and what of its clips can be drawn and scored."""
    labels, ontology = ontology_from_labels(read_companion(run.arguments, rows.config_name, "labels.json"))
    table = rows.select_columns([name for name in COLUMNS if name != "synthetic"]).data.table
    seconds = run.settings(WindowSettings).clip_seconds
    return labels, build_pools(table, labels, ontology, run.settings(PoolSettings), seconds)


def check_sides(sides: dict[str, ClipWindows]) -> None:
    """Thresholds are chosen on one side and checked on the other: both need the target and something else."""
    for name, side in sides.items():
        positives = int(side.clips.targets.sum())
        if not positives or positives == len(side.clips):
            raise ValueError(
                f"the {name} side has {positives} clips with the target and {len(side.clips) - positives} without; it "
                "needs both: change validation_seed or validation_fraction, or prepare more clips"
            )


def log_what_was_kept(data: DetectionData) -> None:
    """The clips of each side, and what was left out."""
    logger.info("target: %s; clips: %s", ", ".join(data.target_names()), data.split.sides)
    for rule in data.pools.rules:
        logger.info("left out: %s: %s clips", rule["rule"], rule["clips"])


def model_settings(data: DetectionData, extractor: FeatureExtractionMixin, run: Run) -> dict[str, Any]:
    """What of a model follows from the data."""
    name = " or ".join(data.target_names())
    settings = {"id2label": {0: name}, "label2id": {name: 0}, "problem_type": "multi_label_classification"}
    if run.arguments.model_type in OUR_TYPES:
        rate = extractor.sampling_rate / extractor.hop_length  # Hz
        settings |= {"input_size": extractor.feature_size, "frame_rate": rate}
    return settings


def initialise(model: PreTrainedModel, data: DetectionData, new: bool, resumed: bool = False) -> None:
    """Give a new model of ours the level and spread of its inputs over some training windows."""
    if not new or model.config.model_type not in OUR_TYPES:
        return
    items = np.linspace(0, len(data.train) - 1, min(SCALED_ON, len(data.train))).astype(int)
    sounds = [data.train[int(item)]["audio"] for item in np.unique(items)]
    features = data.extractor(sounds, sampling_rate=data.extractor.sampling_rate)["input_features"]  # (N, T, F)
    frames = features.flatten(0, 1).double()
    deviation = frames.std(0)
    model.set_input_scaling(frames.mean(0), deviation.where(deviation >= SMALLEST_FEATURE_DEVIATION, 1.0))


def collator(extractor: FeatureExtractionMixin, run: Run) -> DetectionCollator:
    """How windows become a batch."""
    return DetectionCollator(extractor, run.settings(Augmentation))


def sampler(data: DetectionData, run: Run) -> Callable[[int], TwoTierBatchSampler]:
    """The plan of training, for a batch size that the trainer knows."""
    settings = run.settings(SamplerSettings)

    def make(batch_size: int) -> TwoTierBatchSampler:
        return TwoTierBatchSampler.from_pools(
            data.pools, settings, batch_size, run.training.seed, run.training.world_size
        )

    return make


def trainer_settings(data: DetectionData, run: Run) -> dict[str, Any]:
    """What the trainer needs beside what all trainers do."""
    settings = run.settings(MiningSettings)
    return {"pools": data.pools, "mining": MiningTable(settings, data.pools) if settings.mining else None}


def model_and_loudness(side: ClipWindows, output: EvalPrediction | PredictionOutput) -> tuple[ClipScores, ClipScores]:
    """Scores of the model, and the loudness of the same windows as if it were one."""
    logits, frames = output.predictions if isinstance(output.predictions, tuple) else (output.predictions, None)
    _, items, loudness = output.label_ids
    model = ClipScores.of(side, logits, frames, items)
    return model, replace(model, scores=loudness.astype(np.float64), frames=None)


def evaluate(trainer: Trainer, data: DetectionData, side: str) -> tuple[dict[str, Any], pa.Table]:
    """The assessment of one side at the threshold that validation chooses, and the scores behind it.

    The threshold, and how long windows are, become part of the model's config: with them it detects anywhere.
    """
    if side not in data.sides:
        raise ValueError(f"side {side!r} is not scored by clip; take one of {', '.join(data.sides)}")
    scored = {
        name: model_and_loudness(data.sides[name], trainer.predict(data.sides[name], metric_key_prefix=name))
        for name in dict.fromkeys(("validation", side))
    }
    (test, loud), (validation, loud_validation) = scored[side], scored["validation"]
    table = data.rows.select_columns(["clip_id", "labels"]).data.table
    rows = table.take(pa.array(test.side.clips.rows[test.readable]))
    results, events = assess(test, validation, (loud, loud_validation), data.rule, rows, data.labels, "validation")
    results["target"] = [
        {"mid": data.labels.mids[code], "name": data.labels.names[code]} for code in data.pools.targets
    ]
    results["note"] = IN_SAMPLE if side == "validation" else None
    trainer.model.config.detection = {
        "clip_seconds": data.validation.clip_seconds,
        "hop_seconds": data.hop_seconds,
        "threshold": results["threshold"]["value"],
    }
    return results, prediction_table(test, loud, rows["clip_id"].to_pylist(), events)


def about_training(trainer: TargetSoundTrainer, data: DetectionData) -> dict[str, Any]:
    """What was served beside what was planned, labels met, hard negatives over the epochs, and bad files."""
    served, plan, items = trainer.served, trainer.plan, data.pools.items
    batches = round((trainer.state.epoch or 0) * len(plan))  # a run may end within an epoch
    planned = {name: count * batches for name, count in Counter(plan.tier_names).items()}
    negatives = np.unique(data.pools.strong.labels)
    never = [data.labels.names[label] for label in negatives if not served.seen[label]]
    ids = data.rows.select_columns(["clip_id"]).data.table["clip_id"]
    return {
        "composition": {
            "planned": planned,
            "served": {name: served.counts[name] for name in planned},
            **{name: served.counts[name] for name in ("explicit", "hard", "substituted", "mixed")},
        },
        "coverage": {
            "labels": len(negatives), "seen": len(negatives) - len(never), "rounds": plan.rounds, "never": never
        },
        "mining": [] if trainer.mining is None else trainer.mining.history,
        "substitutions": [
            {
                "clip_id": ids[int(items.clip[item])].as_py(),
                "times": times,
                "reason": data.train.failure_of((item, 0)),
            }
            for item, times in served.substituted.most_common(SUBSTITUTES_NAMED)
        ],
    }  # fmt: skip


def extra_pages(trainer: TargetSoundTrainer, data: DetectionData) -> dict[str, str]:
    """The negatives that may be targets nobody labelled, for people to hear."""
    if trainer.mining is None:
        return {}
    columns = ["clip_id", "start_seconds", "labels"]
    table = data.rows.select_columns(columns).data.table
    return {"review.csv": review_csv(trainer.mining, table, data.labels)}


def predict(
    model: PreTrainedModel, extractor: FeatureExtractionMixin, sounds: Sequence[Path], arguments: argparse.Namespace
) -> tuple[list[Detections], list[str], str]:
    """Write the events in some recordings; they, why some have none, and a line that says what was written."""
    if arguments.listener is not None:
        raise ValueError("--listener: a detector knows no listeners; leave it out")
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        raise ValueError(f"--threshold {arguments.threshold}: give a score from 0 to 1")
    events = 0

    def parts(sound: Path) -> Iterator[Detections]:
        nonlocal events
        for part in detect(model, extractor, sound, arguments.threshold):
            events += len(part.events)
            yield part

    found, unreadable = write_predictions(parts, sounds, arguments.output, keep=arguments.plot is not None)
    said = f"{events} events of {found[0].target} at threshold {found[0].threshold:.3g}" if found else ""
    return found, unreadable, said
