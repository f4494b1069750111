"""What a run of the detection task records in metrics.json."""

from dataclasses import dataclass

from evaluation.intervals import Interval
from system.text import plural
from tasks.detection.mining import MinedEpoch
from tasks.detection.pools import ClipCounts, LabelCount, RuleCount
from tasks.detection.scores import ClipResults
from training.task import DataRecord, TrainingRecord


@dataclass(frozen=True)
class DetectionDataRecord(DataRecord):
    """The clips of a data set: what was left out, by which rule, and what each part of the split holds."""

    clips: ClipCounts
    rules: list[RuleCount]
    trim: list[LabelCount]
    sides: dict[str, dict[str, int]]  # part of the split -> clips, clips with the target, and more
    split_warning: str | None
    control: str | None


@dataclass(frozen=True)
class Composition:
    """How many windows of each part of the batches were planned and served, and what else they were."""

    planned: dict[str, int]
    served: dict[str, int]
    explicit: int  # a person checked that the target is absent
    hard: int
    substituted: int  # for windows that could not be read
    mixed: int  # with one that holds the target


@dataclass(frozen=True)
class TrainingLength:
    """How long a training is, as planned before its first step."""

    steps: int  # of the optimizer
    steps_per_epoch: int
    positives: int
    positives_per_step: int
    passes: float  # over the positives

    def __str__(self) -> str:
        return (
            f"{plural(self.steps, 'optimizer step')}, {self.steps_per_epoch:,} per epoch; "
            f"{plural(self.positives, 'positive')}, {self.positives_per_step} per step, "
            f"{self.passes:.1f} passes over them"
        )


@dataclass(frozen=True)
class Coverage:
    """How many labels of the negatives came up in training."""

    labels: int
    seen: int
    rounds: int  # epochs in which the plan brings each label at least once
    never: list[str]


@dataclass(frozen=True)
class Substitution:
    """A file that could not be read, so that others were served in its place."""

    clip_id: str
    times: int
    reason: str | None  # None: it could be read later


@dataclass(frozen=True)
class DetectionTrainingRecord(TrainingRecord):
    """How a detector was trained."""

    length: TrainingLength
    composition: Composition
    coverage: Coverage
    mining: list[MinedEpoch]
    substitutions: list[Substitution]  # the most requested first


@dataclass(frozen=True)
class Label:
    """A label of AudioSet."""

    mid: str
    name: str


@dataclass(frozen=True)
class DetectionResults(ClipResults):
    """The scores on one part of the data."""

    target: list[Label]
    baselines_left_out: dict[str, str]  # baseline -> why
    note: str | None  # what a reader has to know first
    # In average precision of the encoder's embeddings over MFCCs, under logistic regression.
    encoder_gain: Interval | None = None
