"""Settings of the emotion task."""

from dataclasses import dataclass, field
from typing import ClassVar

from training.settings import TaskSettings, check_part_rates

# Name -> exponent p of the class weight (1 / frequency) ** p.
CLASS_WEIGHTS = {"none": 0.0, "root": 0.5, "inverse": 1.0}
SPECIAL_TOKENS = 2  # [CLS] and [SEP] frame every text


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of the encoders of the modalities."""

    text_model: str = field(
        default="google-bert/bert-base-uncased",
        metadata={
            "help": "Text encoder and tokenizer: a Hub name or a folder. A folder without weights gives an encoder "
            "with random weights."
        },
    )
    video_weights: str = field(
        default="kinetics",
        metadata={
            "help": "Weights of r3d_18: kinetics (downloaded once from torchvision), a state dict file, or none."
        },
    )
    max_text_tokens: int = field(
        default=128, metadata={"help": "Truncate texts after this many tokens. The log counts them."}
    )
    cache_features: bool = field(
        default=False,
        metadata={"help": "Cache the outputs of frozen encoders on disk. Epochs then take seconds."},
    )

    def __post_init__(self) -> None:
        if self.max_text_tokens <= SPECIAL_TOKENS:
            raise ValueError(
                f"max_text_tokens={self.max_text_tokens}: leaves no room for text, because {SPECIAL_TOKENS} tokens "
                f"are special. Give {SPECIAL_TOKENS + 1} or more."
            )


@dataclass(frozen=True)
class EmotionSettings:
    """Settings of training and scoring."""

    class_weights: str = field(
        default="none",
        metadata={
            "help": "Class weights in the loss, from the training labels: none, inverse (1 / frequency) or root "
            "(its square root)."
        },
    )
    learning_rates: dict = field(
        default_factory=dict,
        metadata={
            "help": "Learning rate per part of the model (text, video, audio, fusion, emotion, sentiment). Other "
            "parts use learning_rate. On the command line: --learning_rates.text 8e-6."
        },
    )
    ablations: bool = field(
        default=True, metadata={"help": "Also score the test split with each modality alone and without each."}
    )

    def __post_init__(self) -> None:
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(
                f"class_weights={self.class_weights!r}: unknown. Must be one of {', '.join(CLASS_WEIGHTS)}."
            )
        check_part_rates(self.learning_rates)


@dataclass(frozen=True)
class EmotionTaskSettings(TaskSettings):
    """All settings of the emotion task."""

    validation_metrics: ClassVar = {
        "emotion_weighted_f1": True, "emotion_macro_f1": True, "sentiment_weighted_f1": True,
        "sentiment_macro_f1": True, "loss": False,
    }  # fmt: skip
    streamed: ClassVar = ("clip",)

    encoders: EncoderSettings
    emotion: EmotionSettings


SETTINGS = EmotionTaskSettings
