"""The fields that a run of the eda task writes to metrics.json."""

from dataclasses import dataclass
from typing import Any

from evaluation.signals import ChannelResults
from training.task import DataRecord


@dataclass(frozen=True)
class EdaDataRecord(DataRecord):
    """Counts of used and excluded trials, the split, and the target scaling."""

    songs: int
    songs_left_out: dict[str, int]  # reason -> songs
    trials: int
    trials_rejected: dict[str, int]  # reason -> trials
    rejected_trials: dict[str, list[str]]  # reason -> the first trials, as "song/listener/trial"
    notes: dict[str, int]  # defect -> trials that are kept despite it
    sides: dict[str, dict[str, int]]  # split -> number of trials, songs and listeners
    trials_between_sides: int  # excluded, because their song and listener are in different splits
    listeners_scaled_by_everyone: list[str]  # too little training data of their own
    split_warning: str | None
    control: str | None
    training_mean: list[float]  # per channel, in scaled units
    target_scaling: dict[str, Any]


@dataclass(frozen=True)
class EdaResults:
    """The scores of a model on one split."""

    unit: str
    trials: int
    songs: int
    listeners: int
    note: str | None  # a caveat that belongs next to the scores
    channels: dict[str, ChannelResults]
