"""Settings of the eda task."""

from dataclasses import dataclass, field
from typing import ClassVar

from evaluation.splits import SplitSettings
from media.eda_settings import EdaSettings
from training.settings import TaskSettings


@dataclass(frozen=True)
class TrialSettings:
    """How trials become training items."""

    window_seconds: float = field(
        default=20.0, metadata={"help": "Length of the random training windows in seconds; 0 takes whole trials."}
    )
    shuffle_songs: bool = field(
        default=False,
        metadata={"help": "A control: train with each song's sound exchanged for that of another."},
    )

    def __post_init__(self) -> None:
        if self.window_seconds < 0:
            raise ValueError(f"window_seconds = {self.window_seconds} must be positive, or 0 for whole trials")


@dataclass(frozen=True)
class ReportSettings:
    """What is reported beside the scores."""

    explain: bool = field(
        default=False,
        metadata={"help": "Report responses over lag, and what the model loses without a band or a moment of sound."},
    )


@dataclass(frozen=True)
class EdaTaskSettings(TaskSettings):
    """All settings of the eda task."""

    validation_metrics: ClassVar = {"rmse": False, "pearson": True, "loss": False}
    not_streamed: ClassVar = "each sound is read once, to make features of it, which are kept on the disk"

    target: EdaSettings
    trials: TrialSettings
    split: SplitSettings
    report: ReportSettings

    def __post_init__(self) -> None:
        """Refuse statistics that a test listener cannot have."""
        unseen = self.split.split_by in ("listener", "song_listener", "leave_one_listener_out")
        if self.target.normalisation_scope == "listener" and unseen:
            raise ValueError(
                f"normalisation_scope=listener: with split_by {self.split.split_by} the listeners of the test have no "
                "training trials to take statistics from. Use normalisation_scope global or trial."
            )


SETTINGS = EdaTaskSettings
