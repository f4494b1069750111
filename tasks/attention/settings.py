"""Settings of the attention task."""

from dataclasses import dataclass, field
from typing import ClassVar

from tasks.attention.split import CreativeSplitSettings
from training.settings import TaskSettings, check_part_rates

MODALITIES = ("text", "video", "audio", "back_audio")


@dataclass(frozen=True)
class AttentionSettings:
    """How a model is trained and scored."""

    learning_rates: dict = field(
        default_factory=dict,
        metadata={"help": "Learning rates by part of the model (the modalities, fusion, regression)."},
    )
    ablations: bool = field(
        default=True, metadata={"help": "Score the test with each modality alone, and without each, too."}
    )
    target_unit: str = field(default="attention", metadata={"help": "What the target is called, and its unit."})

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
