"""Settings of the detection task."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from evaluation.threshold_rules import check_rule
from media.audioset import TRIMS
from tasks.detection.augmentation import Augmentation
from tasks.detection.draws import LABEL_WEIGHTS
from training.settings import TaskSettings, check_front_end, check_part_rates

POSITIVE_SOURCES = ("auto", "strong", "weak", "both")
HEAD_TRIMS = (*TRIMS, "none")
KEYS_OF_ENCODER = ("name", "revision")
LONGEST_KEPT = 120.0  # s; windows of longer files are read where they are
SAMPLE_BYTES = 4  # float32


@dataclass(frozen=True)
class PoolSettings:
    """What is detected, and which clips are trained and chosen on."""

    target: list[str] = field(
        default_factory=lambda: ["Baby cry, infant cry"],
        metadata={"help": "Labels, by name or MID, that are the target together."},
    )
    related: list[str] | None = field(
        default=None,
        metadata={
            "help": "Labels under which the target may be heard, so that a clip with one is no negative; by default "
            "all kinds of the target and what it is directly a kind of."
        },
    )
    positives: str = field(
        default="auto",
        metadata={
            "help": "Positives: strong (events), weak (clips, anywhere), both, or auto (events where the target has "
            "any, else clips)."
        },
    )
    head_trim: str = field(
        default="only_head", metadata={"help": f"How the commonest sounds are thinned: {', '.join(HEAD_TRIMS)}."}
    )
    head_labels: list[str] = field(
        default_factory=lambda: ["/m/09x0r", "/m/04rlf"],
        metadata={"help": "The commonest sounds: speech and music by default."},
    )
    head_keep_fraction: float = field(default=0.2, metadata={"help": "Share of their clips that is kept."})
    head_floor: int = field(default=100, metadata={"help": "Clips that head_trim floor leaves every label."})
    head_seed: int = field(default=0, metadata={"help": "Seed of the thinning."})
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Share of the training groups (recordings, else clips) that thresholds are chosen on."},
    )
    validation_seed: int = field(default=0, metadata={"help": "Seed of that choice."})
    max_eval_clips: int = field(
        default=0, metadata={"help": "Clips of validation and test each, positives all among them; 0 for all."}
    )

    def __post_init__(self) -> None:
        for name, value, known in (
            ("positives", self.positives, POSITIVE_SOURCES),
            ("head_trim", self.head_trim, HEAD_TRIMS),
        ):
            if value not in known:
                raise ValueError(f"{name} = {value!r} is not known; it takes one of {', '.join(known)}")
        for name in ("head_keep_fraction", "validation_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give 0 to 1")
        for name in ("head_floor", "max_eval_clips"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: give 0 or more")
        if not self.target:
            raise ValueError("target is empty; name at least one label, such as 'Baby cry, infant cry'")


@dataclass(frozen=True)
class WindowSettings:
    """What a detector hears at once."""

    clip_seconds: float = field(default=1.0, metadata={"help": "Length of the windows in seconds."})
    sampling_rate: int = field(default=16000, metadata={"help": "Rate that all sounds are brought to, in Hz."})
    memory_gb: float = field(
        default=1.0,
        metadata={
            "help": "Each process keeps decoded sounds in memory if all of them take at most this much, GB; 0: never."
        },
    )

    def __post_init__(self) -> None:
        if not 0 < self.clip_seconds < math.inf:
            raise ValueError(f"clip_seconds = {self.clip_seconds}: give a length in seconds above 0")
        if self.sampling_rate < 1:
            raise ValueError(f"sampling_rate = {self.sampling_rate}: give a whole number of Hz, such as 16000")
        if not 0 <= self.memory_gb < math.inf:
            raise ValueError(f"memory_gb={self.memory_gb}: not a size. Give 0 or more.")

    def fit_in_memory(self, seconds: np.ndarray) -> bool:
        """Whether sounds of these lengths (N,), NaN where unknown, may be kept decoded."""
        known = bool(len(seconds)) and bool((seconds <= LONGEST_KEPT).all())
        return known and float(seconds.sum()) * self.sampling_rate * SAMPLE_BYTES <= self.memory_gb * 1e9


@dataclass(frozen=True)
class SamplerSettings:
    """The parts of a batch."""

    positive_share: float = field(default=0.25, metadata={"help": "Share of a batch that holds the target."})
    strong_share: float = field(
        default=0.25, metadata={"help": "Share of negatives that are known events; 0 where there are none."}
    )
    weak_share: float = field(default=0.5, metadata={"help": "Share of negatives from anywhere in a clip."})
    tier_a_share: float = field(
        default=0.6,
        metadata={"help": "Share of the strong negatives that come by label; the others are hard ones, tier B."},
    )
    weak_weights: str = field(
        default="sqrt",
        metadata={
            "help": "How often each label of the weak negatives is drawn: uniform (in proportion to its clips), sqrt "
            "(to their root), or panns (all labels alike)."
        },
    )
    min_epoch_steps: int = field(
        default=16,
        metadata={
            "help": "Fewest optimizer steps of an epoch: a small set of positives is passed over several times in one."
        },
    )

    def __post_init__(self) -> None:
        if self.weak_weights not in LABEL_WEIGHTS:
            known = ", ".join(LABEL_WEIGHTS)
            raise ValueError(f"weak_weights={self.weak_weights}: unknown weights. Must be one of {known}.")
        if self.min_epoch_steps < 1:
            raise ValueError(f"min_epoch_steps={self.min_epoch_steps}: an epoch has no step. Give 1 or more.")

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of positives, strong and weak negatives."""
        return self.positive_share, self.strong_share, self.weak_share


@dataclass(frozen=True)
class MiningSettings:
    """What is a hard negative, and how much of it comes."""

    mining: bool = field(
        default=True, metadata={"help": "Draw more of the negatives that the model takes for the target."}
    )
    mining_capacity: int = field(default=50_000, metadata={"help": "Hard negatives that are remembered."})
    hard_threshold: float = field(default=0.5, metadata={"help": "Score above which a negative is hard."})
    max_uses: int = field(
        default=2, metadata={"help": "How often the hardest may come in an epoch; others less, at least once."}
    )
    score_memory: float = field(
        default=0.5, metadata={"help": "Share of its older scores in the score of a negative; 0 forgets them."}
    )
    suspect_threshold: float = field(
        default=0.95, metadata={"help": "Score above which a negative may be a target that nobody labelled."}
    )
    suspect_epochs: int = field(
        default=3, metadata={"help": "Epochs with such a score after which it is put aside and listed for review."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.hard_threshold <= self.suspect_threshold <= 1:
            raise ValueError(
                f"hard_threshold = {self.hard_threshold}, suspect_threshold = {self.suspect_threshold}: both are "
                "scores from 0 to 1, the second no less than the first"
            )
        if not 0 <= self.score_memory < 1:
            raise ValueError(f"score_memory = {self.score_memory}: give 0 to below 1")
        for name, most in (("mining_capacity", 2**30), ("max_uses", 127), ("suspect_epochs", 255)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}: give 1 to {most:,}")


@dataclass(frozen=True)
class ScoreSettings:
    """How clips are scored."""

    hop_seconds: float = field(
        default=0.5, metadata={"help": "Windows that are scored begin this much after each other, s."}
    )
    threshold_rule: str = field(
        default="f1",
        metadata={
            "help": "How the threshold is chosen on validation: f1 (the largest), recall:0.9 (the highest that keeps "
            "it), false_alarms:10 (the lowest with at most so many an hour)."
        },
    )

    def __post_init__(self) -> None:
        if not self.hop_seconds > 0:
            raise ValueError(f"hop_seconds = {self.hop_seconds} must be above 0")
        check_rule(self.threshold_rule)


@dataclass(frozen=True)
class EncoderSettings:
    """The pretrained encoder of a model of type `encoder_head`, and how it is trained."""

    encoder: dict = field(
        default_factory=dict,
        metadata={
            "help": "The pretrained encoder: name (a folder, a name on the Hub, or efficientat_mn04_as) and revision; "
            "on the command line --encoder.name efficientat_mn04_as."
        },
    )
    encoder_views: int = field(
        default=4,
        metadata={"help": "Windows of each training item that a frozen encoder embeds, each varied in its own way."},
    )
    learning_rates: dict = field(
        default_factory=dict,
        metadata={
            "help": "Learning rates by part of the model (encoder, head), where learning_rate is not meant; on the "
            "command line --learning_rates.encoder 1e-4."
        },
    )

    def __post_init__(self) -> None:
        for key, value in self.encoder.items():
            if key not in KEYS_OF_ENCODER:
                raise ValueError(f"encoder.{key}={value!r}: unknown key. Must be {' or '.join(KEYS_OF_ENCODER)}.")
            if value is not None and not isinstance(value, str):
                raise ValueError(f"encoder.{key}={value!r}: not a text. Give a name.")
        if self.encoder and not self.encoder.get("name"):
            raise ValueError(f"encoder={self.encoder}: it has no name. Add one, such as efficientat_mn04_as.")
        check_front_end("encoder.name", self.encoder.get("name") or "")
        if self.encoder_views < 1:
            raise ValueError(f"encoder_views={self.encoder_views}: an item has no window. Give 1 or more.")
        check_part_rates(self.learning_rates)


@dataclass(frozen=True)
class DetectionTaskSettings(TaskSettings):
    """All settings of the detection task."""

    validation_metrics: ClassVar = {"average_precision": True, "roc_auc": True, "loss": False}
    not_streamed: ClassVar = "its clips are files, each fetched ahead of its use already"

    pools: PoolSettings
    windows: WindowSettings
    augmentation: Augmentation
    sampler: SamplerSettings
    mining: MiningSettings
    scores: ScoreSettings
    encoder: EncoderSettings


SETTINGS = DetectionTaskSettings
