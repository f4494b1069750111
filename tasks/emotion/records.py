"""What a run of the emotion task records in metrics.json."""

from dataclasses import dataclass
from typing import Any

from training.task import DataRecord, TrainingRecord


@dataclass(frozen=True)
class EmotionDataRecord(DataRecord):
    """The utterances of a data set, and what each part of the split holds and lacks."""

    sides: dict[str, dict[str, Any]]
    texts_cut: dict[str, int]  # part of the split -> texts longer than max_text_tokens
    label_names: dict[str, list[str]]  # head -> its classes
    policies: list[str]
    notes: dict[str, int]  # kind of defect -> rows
    split_warning: str | None
    control: str | None


@dataclass(frozen=True)
class EmotionTrainingRecord(TrainingRecord):
    """The parts of the model that were trained, and the encoders they started from."""

    trainable: dict[str, Any]
    undecodable: int  # items whose clip could not be read
    encoders: dict[str, Any]
    class_weights: str
    learning_rates: dict[str, float]
    ablations: bool
