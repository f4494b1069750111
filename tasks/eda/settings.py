"""Settings of the eda task."""

from dataclasses import dataclass, field
from typing import ClassVar

from evaluation.splits import SplitSettings
from media.eda_settings import EdaSettings
from training.settings import TaskSettings


@dataclass(frozen=True)
class TrialSettings:
    """Settings of the training items."""

    window_seconds: float = field(
        default=20.0, metadata={"help": "Length of the random training windows, in seconds. 0 uses whole trials."}
    )
    shuffle_songs: bool = field(
        default=False,
        metadata={"help": "Negative control: train with the audio of each song replaced by that of another song."},
    )

    def __post_init__(self) -> None:
        if self.window_seconds < 0:
            raise ValueError(f"window_seconds={self.window_seconds}: negative. Give 0 for whole trials, or more.")


@dataclass(frozen=True)
class ReportSettings:
    """Settings of the report."""

    explain: bool = field(
        default=False,
        metadata={"help": "Also report the response over lag, and the loss without each band or moment of audio."},
    )


@dataclass(frozen=True)
class EdaTaskSettings(TaskSettings):
    """All settings of the eda task."""

    validation_metrics: ClassVar = {"rmse": False, "pearson": True, "loss": False}
    not_streamed: ClassVar = "features are computed once and cached on disk"

    target: EdaSettings
    trials: TrialSettings
    split: SplitSettings
    report: ReportSettings

    def __post_init__(self) -> None:
        """Reject a normalisation whose statistics would not exist for the listeners of the test split."""
        # These rules put no listener into both training and test.
        unseen = self.split.split_by in ("listener", "song_listener", "leave_one_listener_out")
        if self.target.normalisation_scope == "listener" and unseen:
            raise ValueError(
                f"normalisation_scope=listener: with split_by={self.split.split_by}, the listeners of the test split "
                "have no training trials to compute statistics from. Use normalisation_scope=global or trial."
            )


SETTINGS = EdaTaskSettings
