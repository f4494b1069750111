"""Settings of the toy task."""

from dataclasses import dataclass
from typing import ClassVar

from evaluation.splits import SplitSettings
from training.settings import TaskSettings


@dataclass(frozen=True)
class ToySettings(TaskSettings):
    """The keys of a config, in groups. This task has only those of the split."""

    validation_metrics: ClassVar = {"rmse": False, "loss": False}  # metric -> whether higher is better
    split: SplitSettings


SETTINGS = ToySettings
