"""The fields that a run of the attention task writes to metrics.json."""

from dataclasses import dataclass
from typing import Any

from evaluation.regression import RegressionResults
from training.task import DataRecord, TrainingRecord


@dataclass(frozen=True)
class AttentionDataRecord(DataRecord):
    """The size of each split, and the number of creatives without a modality or a target."""

    sides: dict[str, dict[str, Any]]
    left_out: dict[str, int]  # reason -> creatives
    # Always None here. Cards and reports read both keys for every task.
    split_warning: str | None
    control: str | None


@dataclass(frozen=True)
class AttentionTrainingRecord(TrainingRecord):
    """The number of trained parameters of each part of the model."""

    trainable: dict[str, int]  # part -> parameters


@dataclass(frozen=True)
class AttentionResults(RegressionResults):
    """The scores of a model on one split."""

    note: str | None  # a caveat that belongs next to the scores
