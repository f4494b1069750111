"""What a run of the emotion task records in metrics.json."""

from dataclasses import dataclass

from evaluation.classification import ClassificationResults
from tasks.emotion.settings import EncoderSettings
from training.task import DataRecord, TrainingRecord


@dataclass(frozen=True)
class SideCounts:
    """The size of one part of the split."""

    utterances: int
    dialogues: int
    without: dict[str, int]  # modality -> rows that lack it


@dataclass(frozen=True)
class EmotionDataRecord(DataRecord):
    """The utterances of a data set, and what each part of the split holds and lacks."""

    sides: dict[str, SideCounts]
    texts_cut: dict[str, int]  # part of the split -> texts longer than max_text_tokens
    label_names: dict[str, list[str]]  # head -> its classes
    policies: list[str]
    notes: dict[str, int]  # kind of defect -> rows
    split_warning: str | None
    control: str | None


@dataclass(frozen=True)
class EmotionTrainingRecord(TrainingRecord):
    """The parts of the model that were trained, and the encoders they started from."""

    trainable: dict[str, int]  # part -> numbers that it learns
    undecodable: int  # items whose clip could not be read
    encoders: EncoderSettings
    class_weights: str
    learning_rates: dict[str, float]
    ablations: bool


@dataclass(frozen=True)
class EmotionResults(ClassificationResults):
    """The scores on one part of the split."""

    undecodable: int  # rows with a clip that could not be read
    note: str | None  # for the reader of the scores
