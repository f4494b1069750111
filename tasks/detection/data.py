"""Prepare the clips of a data set as pools to draw from and splits to score."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import datasets
import pyarrow as pa
from transformers import EvalPrediction
from transformers.trainer_utils import PredictionOutput

from evaluation.validation import validation_scores
from media.audioset import Labels, ontology_from_labels
from system.text import plural
from tasks.detection.collator import SoundExtractor
from tasks.detection.eval_windows import ClipWindows
from tasks.detection.pools import ClipPools, build_pools
from tasks.detection.scores import ClipScores
from tasks.detection.settings import DetectionTaskSettings, EncoderSettings
from tasks.detection.split import ClipSplit
from tasks.detection.windows import AudioSetWindows
from training.rows import read_companion
from training.task import Run

logger = logging.getLogger(__name__)


COLUMNS = (
    "clip_id", "subset", "part", "start_seconds", "end_seconds", "labels", "events", "strongly_labelled", "audio",
    "audio_seconds", "defects", "synthetic",
)  # fmt: skip


@dataclass(frozen=True)
class DetectionData:
    """A data set's clips as pools to draw from and sides to score."""

    rows: datasets.Dataset
    labels: Labels
    pools: ClipPools
    split: ClipSplit
    train: AudioSetWindows
    sides: dict[str, ClipWindows]
    extractor: SoundExtractor
    hop_seconds: float  # between windows that are scored
    rule: str  # by which the threshold is chosen
    encoder: EncoderSettings = field(default_factory=EncoderSettings)

    @property
    def validation(self) -> ClipWindows:
        """What checkpoints and thresholds are chosen on."""
        return self.sides["validation"]

    def target_names(self) -> list[str]:
        """What people call the target."""
        return [self.labels.names[code] for code in self.pools.targets]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Average precision and area under the ROC curve over clips: to choose a checkpoint by."""
        scores = model_scores(self.validation, output)
        names = ("average_precision", "roc_auc")
        return validation_scores(names, predictions=scores.clip_scores, references=scores.targets)

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


def prepare(
    rows: datasets.Dataset,
    extractor: SoundExtractor,
    run: Run[DetectionTaskSettings],
    saved: dict[str, Any] | None = None,
) -> DetectionData:
    """Pools, sides and the windows of both."""
    labels, pools = clip_pools(rows, run)
    windows, scores = run.settings.windows, run.settings.scores
    seconds, rate = windows.clip_seconds, windows.sampling_rate
    if scores.hop_seconds > seconds:
        raise ValueError(
            f"hop_seconds = {scores.hop_seconds} is more than clip_seconds = {seconds}: sound between windows would "
            "not be heard; lower it"
        )
    table = rows.select_columns(["audio", "audio_seconds"]).data.table
    keep = windows.fit_in_memory(table.filter(table["audio"].is_valid())["audio_seconds"].to_numpy())
    sides = {
        side: ClipWindows(rows, clips, seconds, scores.hop_seconds, rate, keep) for side, clips in pools.sides.items()
    }
    check_sides(sides, run.settings.pools.validation_fraction)
    train = AudioSetWindows(rows, pools.items, seconds, rate, run.settings.augmentation, keep)
    split = ClipSplit.of(rows, pools, run.settings.pools)
    data = DetectionData(
        rows, labels, pools, split, train, sides, extractor, scores.hop_seconds, scores.threshold_rule,
        run.settings.encoder,
    )  # fmt: skip
    log_what_was_kept(data)
    return data


def clip_pools(rows: datasets.Dataset, run: Run[DetectionTaskSettings]) -> tuple[Labels, ClipPools]:
    """The vocabulary of a data set, and what of its clips can be drawn and scored."""
    labels, ontology = ontology_from_labels(read_companion(run.arguments, rows.config_name, "labels.json"))
    table = columns_there(rows, [name for name in (*COLUMNS, "group") if name != "synthetic"])
    seconds = run.settings.windows.clip_seconds
    return labels, build_pools(table, labels, ontology, run.settings.pools, seconds)


def columns_there(rows: datasets.Dataset, names: Sequence[str]) -> pa.Table:
    """Those of some columns that a data set has."""
    return rows.select_columns([name for name in names if name in rows.column_names]).data.table


def check_sides(sides: dict[str, ClipWindows], validation_fraction: float) -> None:
    """Thresholds are chosen on one side and checked on the other: both need the target and something else."""
    for name, side in sides.items():
        positives = int(side.clips.targets.sum())
        if 0 < positives < len(side.clips):
            continue
        lacking = "without" if positives else "with"
        problem = f"the {name} side has no clip {lacking} the target"
        if name == "test":
            raise ValueError(f"eval: {problem}. Prepare clips {lacking} the target in eval.")
        if not validation_fraction:
            raise ValueError(f"validation_fraction=0: {problem}. Give a number above 0.")
        raise ValueError(
            f"validation_fraction={validation_fraction:g}: {problem}: of two groups (recordings) outside eval, one "
            f"would be in validation with any seed. Prepare clips {lacking} the target of two groups or more."
        )


def log_what_was_kept(data: DetectionData) -> None:
    """The clips of each side, and what was left out."""
    logger.info("target: %s; clips: %s", ", ".join(data.target_names()), data.split.sides)
    for rule in data.pools.rules:
        if rule.clips:
            logger.info("left out: %s: %s", rule.rule, plural(rule.clips, "clip"))


def model_scores(side: ClipWindows, output: EvalPrediction | PredictionOutput) -> ClipScores:
    """Return the scores of all windows of a side, as the trainer predicted them."""
    predictions, label_ids = cast(Any, output.predictions), cast(Any, output.label_ids)
    logits, frames = predictions if isinstance(predictions, tuple) else (predictions, None)
    _, readable = label_ids
    return ClipScores.of(side, logits, frames, readable)
