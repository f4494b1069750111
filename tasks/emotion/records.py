"""The fields that a run of the emotion task writes to metrics.json."""

from dataclasses import dataclass

from evaluation.classification import ClassificationResults
from tasks.emotion.settings import EncoderSettings
from training.task import DataRecord, TrainingRecord


@dataclass(frozen=True)
class SideCounts:
    """The size of one split."""

    utterances: int
    dialogues: int
    without: dict[str, int]  # modality -> rows that lack it


@dataclass(frozen=True)
class EmotionDataRecord(DataRecord):
    """The utterances of a data set, by split, with truncated texts and known defects."""

    sides: dict[str, SideCounts]
    texts_cut: dict[str, int]  # split -> texts longer than max_text_tokens
    label_names: dict[str, list[str]]  # head -> class names, in the order of their codes
    policies: list[str]  # sentences about the treatment of the data, for cards and reports
    notes: dict[str, int]  # defect -> rows
    split_warning: str | None
    control: str | None


@dataclass(frozen=True)
class EmotionTrainingRecord(TrainingRecord):
    """The trained parts of the model, and the encoders that they started from."""

    trainable: dict[str, int]  # part -> parameters
    undecodable: int  # clips that could not be decoded, counted at each read
    encoders: EncoderSettings
    class_weights: str
    learning_rates: dict[str, float]
    ablations: bool


@dataclass(frozen=True)
class EmotionResults(ClassificationResults):
    """The scores of a model on one split."""

    undecodable: int  # rows with a modality that could not be decoded
    note: str | None  # a caveat that belongs next to the scores
