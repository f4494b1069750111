"""What a run of the detection task records in metrics.json."""

from dataclasses import dataclass
from typing import Any

from training.task import DataRecord, TrainingRecord


@dataclass(frozen=True)
class DetectionDataRecord(DataRecord):
    """The clips of a data set: what was left out, by which rule, and what each part of the split holds."""

    clips: dict[str, Any]  # kind -> clips, some divided further
    rules: list[dict[str, Any]]  # rule and the clips that it left out
    trim: list[dict[str, Any]]  # label, and its clips before and after frequent labels were thinned
    sides: dict[str, dict[str, Any]]
    split_warning: str | None
    control: str | None


@dataclass(frozen=True)
class DetectionTrainingRecord(TrainingRecord):
    """How a detector was trained: planned and served windows, labels covered, negatives mined, bad files replaced."""

    composition: dict[str, Any]
    coverage: dict[str, Any]
    mining: list[dict[str, Any]]  # one entry per epoch
    substitutions: list[dict[str, Any]]  # one entry per file that could not be read, the most requested first
