"""Settings of the toy task."""

from dataclasses import dataclass
from typing import ClassVar

from evaluation.splits import SplitSettings
from training.settings import TaskSettings


@dataclass(frozen=True)
class ToySettings(TaskSettings):
    """The keys of a config, in groups. This task has only those that divide the data."""

    validation_metrics: ClassVar = {"rmse": False, "loss": False}  # less is better
    split: SplitSettings


SETTINGS = ToySettings
