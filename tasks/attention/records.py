"""What a run of the attention task records in metrics.json."""

from dataclasses import dataclass
from typing import Any

from training.task import DataRecord, TrainingRecord


@dataclass(frozen=True)
class AttentionDataRecord(DataRecord):
    """The creatives of a data set, and what each part of the split lacks."""

    sides: dict[str, dict[str, Any]]
    left_out: dict[str, int]  # reason -> creatives
    split_warning: str | None
    control: str | None


@dataclass(frozen=True)
class AttentionTrainingRecord(TrainingRecord):
    """The parts of the model that were trained."""

    trainable: dict[str, Any]
