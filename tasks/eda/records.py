"""What a run of the eda task records in metrics.json."""

from dataclasses import dataclass
from typing import Any

from evaluation.signals import ChannelResults
from training.task import DataRecord


@dataclass(frozen=True)
class EdaDataRecord(DataRecord):
    """The trials of a data set: what was left out, how they were divided, and how targets were scaled."""

    songs: int
    songs_left_out: dict[str, int]  # reason -> songs
    trials: int
    trials_rejected: dict[str, int]  # reason -> trials
    rejected_trials: dict[str, list[str]]  # reason -> the first of these trials, "song/listener/trial"
    notes: dict[str, int]  # kind of defect -> trials that are kept
    sides: dict[str, dict[str, int]]  # part of the split -> trials, songs and listeners
    trials_between_sides: int
    listeners_scaled_by_everyone: list[str]
    split_warning: str | None
    control: str | None
    training_mean: list[float]  # per channel, in scaled units
    target_scaling: dict[str, Any]


@dataclass(frozen=True)
class EdaResults:
    """The scores on one part of the data."""

    unit: str
    trials: int
    songs: int
    listeners: int
    note: str | None
    channels: dict[str, ChannelResults]
