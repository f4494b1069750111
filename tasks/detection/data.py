"""Prepare the clips of a data set: pools to draw from and splits to score."""

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
    """The training pools and the scored splits of a data set."""

    rows: datasets.Dataset
    labels: Labels
    pools: ClipPools
    split: ClipSplit
    train: AudioSetWindows
    sides: dict[str, ClipWindows]
    extractor: SoundExtractor
    hop_seconds: float  # between scored windows
    rule: str  # threshold rule
    encoder: EncoderSettings = field(default_factory=EncoderSettings)

    @property
    def validation(self) -> ClipWindows:
        """The split on which checkpoints and thresholds are chosen."""
        return self.sides["validation"]

    def target_names(self) -> list[str]:
        """Return the names of the target's labels."""
        return [self.labels.names[code] for code in self.pools.targets]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Return average precision and ROC AUC over clips, for choosing a checkpoint."""
        scores = model_scores(self.validation, output)
        names = ("average_precision", "roc_auc")
        return validation_scores(names, predictions=scores.clip_scores, references=scores.targets)

    def record(self) -> dict[str, Any]:
        """Return the clip counts, the exclusion rules and the contents of each split for metrics.json."""
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
    """Build the pools, the splits and the windows of both."""
    labels, pools = clip_pools(rows, run)
    windows, scores = run.settings.windows, run.settings.scores
    seconds, rate = windows.clip_seconds, windows.sampling_rate
    if scores.hop_seconds > seconds:
        raise ValueError(
            f"hop_seconds={scores.hop_seconds}: longer than clip_seconds={seconds}, so audio between windows would be "
            "skipped. Lower hop_seconds."
        )
    table = rows.select_columns(["audio", "audio_seconds"]).data.table
    # Clips without audio have no length; they must not turn keeping off.
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
    log_clip_counts(data)
    return data


def clip_pools(rows: datasets.Dataset, run: Run[DetectionTaskSettings]) -> tuple[Labels, ClipPools]:
    """Return the label vocabulary of a data set and its clip pools."""
    labels, ontology = ontology_from_labels(read_companion(run.arguments, rows.config_name, "labels.json"))
    table = existing_columns(rows, [name for name in (*COLUMNS, "group") if name != "synthetic"])
    seconds = run.settings.windows.clip_seconds
    return labels, build_pools(table, labels, ontology, run.settings.pools, seconds)


def existing_columns(rows: datasets.Dataset, names: Sequence[str]) -> pa.Table:
    """Return the named columns that the data set has."""
    return rows.select_columns([name for name in names if name in rows.column_names]).data.table


def check_sides(sides: dict[str, ClipWindows], validation_fraction: float) -> None:
    """Check that validation and test each have clips with and without the target; raises ValueError if not."""
    for name, side in sides.items():
        positives = int(side.clips.targets.sum())
        if 0 < positives < len(side.clips):
            continue
        lacking = "without" if positives else "with"
        problem = f"the {name} split has no clip {lacking} the target"
        if name == "test":
            raise ValueError(f"eval: {problem}. Prepare clips {lacking} the target in eval.")
        if not validation_fraction:
            raise ValueError(f"validation_fraction=0: {problem}. Give a number above 0.")
        raise ValueError(
            f"validation_fraction={validation_fraction:g}: {problem}. Prepare clips {lacking} the target from "
            "at least two groups (recordings) outside eval; with two, one is in validation for any seed."
        )


def log_clip_counts(data: DetectionData) -> None:
    """Log the clip counts of each split and of each exclusion rule."""
    logger.info("target: %s; clips: %s", ", ".join(data.target_names()), data.split.sides)
    for rule in data.pools.rules:
        if rule.clips:
            logger.info("excluded (%s): %s", rule.rule, plural(rule.clips, "clip"))


def model_scores(side: ClipWindows, output: EvalPrediction | PredictionOutput) -> ClipScores:
    """Turn the trainer's predictions for a split into scores."""
    # A model without frame scores returns its logits alone, not a tuple.
    predictions, label_ids = cast(Any, output.predictions), cast(Any, output.label_ids)
    logits, frames = predictions if isinstance(predictions, tuple) else (predictions, None)
    _, readable = label_ids
    return ClipScores.of(side, logits, frames, readable)
