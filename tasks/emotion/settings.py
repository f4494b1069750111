"""Settings of the emotion task."""

from dataclasses import dataclass, field
from typing import ClassVar

from training.settings import TaskSettings, check_part_rates

CLASS_WEIGHTS = {"none": 0.0, "root": 0.5, "inverse": 1.0}  # name -> power of the inverse frequency


@dataclass(frozen=True)
class EncoderSettings:
    """How the modalities are encoded."""

    text_model: str = field(
        default="google-bert/bert-base-uncased",
        metadata={
            "help": "The text encoder and its tokenizer: a name on the Hub or a folder. One without weights gives "
            "a random encoder of its config."
        },
    )
    video_weights: str = field(
        default="kinetics",
        metadata={
            "help": "Weights of r3d_18: kinetics (of torchvision, downloaded once), a file of its state dict, or none."
        },
    )
    max_text_tokens: int = field(default=128, metadata={"help": "Texts are cut after so many tokens, and counted."})
    cache_features: bool = field(
        default=False,
        metadata={"help": "Keep what frozen encoders make of each utterance on the disk: epochs then take seconds."},
    )

    def __post_init__(self) -> None:
        if self.max_text_tokens < 3:
            raise ValueError(f"max_text_tokens = {self.max_text_tokens}: give 3 or more, two frame the text")


@dataclass(frozen=True)
class EmotionSettings:
    """How the model is trained and scored."""

    class_weights: str = field(
        default="none",
        metadata={
            "help": "Weight of a class in the loss, by the training labels: none, inverse (of its frequency), or root "
            "(of that)."
        },
    )
    learning_rates: dict = field(
        default_factory=dict,
        metadata={
            "help": "Learning rates by part of the model (text, video, audio, fusion, emotion, sentiment), where "
            "learning_rate is not meant; on the command line --learning_rates.text 8e-6."
        },
    )
    ablations: bool = field(
        default=True, metadata={"help": "Score the test with each modality alone, and without each, too."}
    )

    def __post_init__(self) -> None:
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(
                f"class_weights = {self.class_weights!r} is not known; it takes one of {', '.join(CLASS_WEIGHTS)}"
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
