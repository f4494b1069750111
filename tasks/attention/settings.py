"""Settings of the attention task."""

from dataclasses import dataclass, field
from typing import ClassVar

from tasks.attention.split import CreativeSplitSettings
from training.settings import TaskSettings, check_part_rates

MODALITIES = ("text", "video", "audio", "back_audio")  # back_audio: the background sound


@dataclass(frozen=True)
class AttentionSettings:
    """Settings of training and scoring."""

    learning_rates: dict = field(
        default_factory=dict,
        metadata={"help": "Learning rate per part of the model: a modality, fusion or regression."},
    )
    ablations: bool = field(
        default=True, metadata={"help": "Also score the test split with each modality alone and without each."}
    )
    target_unit: str = field(default="attention", metadata={"help": "Name and unit of the target, for reports."})

    def __post_init__(self) -> None:
        check_part_rates(self.learning_rates)


@dataclass(frozen=True)
class AttentionTaskSettings(TaskSettings):
    """All settings of the attention task."""

    validation_metrics: ClassVar = {
        "spearman": True, "pearson": True, "r2": True, "mae": False, "rmse": False, "loss": False,
    }  # fmt: skip
    streamed: ClassVar = MODALITIES

    split: CreativeSplitSettings
    attention: AttentionSettings


SETTINGS = AttentionTaskSettings
