"""Records of a detection run in metrics.json."""

from dataclasses import dataclass

from evaluation.intervals import Interval
from system.text import plural
from tasks.detection.mining import MinedEpoch
from tasks.detection.pools import ClipCounts, LabelCount, RuleCount
from tasks.detection.scores import ClipResults
from training.task import DataRecord, TrainingRecord


@dataclass(frozen=True)
class DetectionDataRecord(DataRecord):
    """The clips of a data set: exclusions by rule, and the contents of each split."""

    clips: ClipCounts
    rules: list[RuleCount]
    trim: list[LabelCount]
    sides: dict[str, dict[str, int]]  # split -> clips, clips with the target, and more
    split_warning: str | None
    control: str | None


@dataclass(frozen=True)
class Composition:
    """Planned and served windows of each part of the batches, and special kinds among the served ones."""

    planned: dict[str, int]
    served: dict[str, int]
    explicit: int  # an annotator confirmed that the target is absent
    hard: int
    substituted: int  # in place of windows that could not be read
    mixed: int  # with a window that holds the target


@dataclass(frozen=True)
class TrainingLength:
    """Length of a training run, as planned before its first step."""

    steps: int  # optimizer steps
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
    """Number of the negatives' labels that were drawn in training."""

    labels: int
    seen: int
    rounds: int  # epochs until the plan has drawn every label at least once
    never: list[str]


@dataclass(frozen=True)
class Substitution:
    """An unreadable file and how often another one replaced it."""

    clip_id: str
    times: int
    reason: str | None  # None: a later attempt succeeded


@dataclass(frozen=True)
class DetectionTrainingRecord(TrainingRecord):
    """How a detector was trained."""

    length: TrainingLength
    composition: Composition
    coverage: Coverage
    mining: list[MinedEpoch]
    substitutions: list[Substitution]  # most requested first


@dataclass(frozen=True)
class Label:
    """A label of AudioSet."""

    mid: str
    name: str


@dataclass(frozen=True)
class DetectionResults(ClipResults):
    """The scores on one split."""

    target: list[Label]
    baselines_left_out: dict[str, str]  # baseline -> reason
    note: str | None  # caveat to show before the scores
    # Gain in average precision of the encoder's embeddings over MFCCs, both with logistic regression.
    encoder_gain: Interval | None = None
