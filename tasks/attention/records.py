"""What a run of the attention task records in metrics.json."""

from dataclasses import dataclass
from typing import Any

from evaluation.regression import RegressionResults
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

    trainable: dict[str, int]  # part -> numbers


@dataclass(frozen=True)
class AttentionResults(RegressionResults):
    """The scores of a model on one part of the data."""

    note: str | None  # what a reader has to know first
