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
ENCODER_KEYS = ("name", "revision")
LONGEST_KEPT = 120.0  # s; of longer files only the window is decoded
SAMPLE_BYTES = 4  # float32


@dataclass(frozen=True)
class PoolSettings:
    """The target, and the clips for training and validation."""

    target: list[str] = field(
        default_factory=lambda: ["Baby cry, infant cry"],
        metadata={"help": "Labels, by name or MID, that together are the target."},
    )
    related: list[str] | None = field(
        default=None,
        metadata={
            "help": "Labels under which the target may be audible, so that a clip with one is not a negative; by "
            "default all subtypes of the target and its direct supertypes."
        },
    )
    positives: str = field(
        default="auto",
        metadata={
            "help": "Positives: strong (events), weak (anywhere in clips), both, or auto (events if the target has "
            "any, else clips)."
        },
    )
    head_trim: str = field(
        default="only_head",
        metadata={"help": f"How clips of the most frequent labels are thinned: {', '.join(HEAD_TRIMS)}."},
    )
    head_labels: list[str] = field(
        default_factory=lambda: ["/m/09x0r", "/m/04rlf"],
        metadata={"help": "The most frequent labels: speech and music by default."},
    )
    head_keep_fraction: float = field(default=0.2, metadata={"help": "Share of their clips to keep."})
    head_floor: int = field(default=100, metadata={"help": "Minimum clips per label with head_trim floor."})
    head_seed: int = field(default=0, metadata={"help": "Seed of the thinning."})
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Share of the training groups (recordings, else clips) that thresholds are chosen on."},
    )
    validation_seed: int = field(default=0, metadata={"help": "Seed of the choice of validation groups."})
    max_eval_clips: int = field(
        default=0,
        metadata={"help": "Maximum clips in validation and in test, with all positives among them; 0 for no limit."},
    )

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("positives", self.positives, POSITIVE_SOURCES),
            ("head_trim", self.head_trim, HEAD_TRIMS),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: unknown value. Must be one of {', '.join(allowed)}.")
        for name in ("head_keep_fraction", "validation_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be from 0 to 1. Give a share in this range.")
        for name in ("head_floor", "max_eval_clips"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative. Give 0 or more.")
        if not self.target:
            raise ValueError("target=[]: no label. Name at least one, for example 'Baby cry, infant cry'.")


@dataclass(frozen=True)
class WindowSettings:
    """Length and format of the windows."""

    clip_seconds: float = field(default=1.0, metadata={"help": "Length of the windows in seconds."})
    sampling_rate: int = field(default=16000, metadata={"help": "Rate that all audio is resampled to, in Hz."})
    memory_gb: float = field(
        default=1.0,
        metadata={"help": "Each process keeps decoded audio in memory if all of it fits in this size, GB; 0: never."},
    )

    def __post_init__(self) -> None:
        if not 0 < self.clip_seconds < math.inf:
            raise ValueError(f"clip_seconds={self.clip_seconds}: not a length. Give seconds above 0.")
        if self.sampling_rate < 1:
            raise ValueError(f"sampling_rate={self.sampling_rate}: not a rate. Give Hz, for example 16000.")
        if not 0 <= self.memory_gb < math.inf:
            raise ValueError(f"memory_gb={self.memory_gb}: not a size. Give 0 or more.")

    def fit_in_memory(self, seconds: np.ndarray) -> bool:
        """Return whether audio of these lengths (N,) in s, NaN if unknown, may be kept decoded."""
        # A comparison with NaN is False, so an unknown length disables keeping.
        short_enough = bool(len(seconds)) and bool((seconds <= LONGEST_KEPT).all())
        return short_enough and float(seconds.sum()) * self.sampling_rate * SAMPLE_BYTES <= self.memory_gb * 1e9


@dataclass(frozen=True)
class SamplerSettings:
    """The parts of a batch."""

    positive_share: float = field(default=0.25, metadata={"help": "Share of positives in a batch."})
    strong_share: float = field(
        default=0.25, metadata={"help": "Share of strong negatives (known events) in a batch; 0 if the data has none."}
    )
    weak_share: float = field(
        default=0.5, metadata={"help": "Share of weak negatives (from anywhere in a clip) in a batch."}
    )
    tier_a_share: float = field(
        default=0.6,
        metadata={"help": "Share of the strong negatives that are drawn by label; the others (tier B) are hard."},
    )
    weak_weights: str = field(
        default="sqrt",
        metadata={
            "help": "How often each label of the weak negatives is drawn: uniform (in proportion to its clips), sqrt "
            "(to their square root), or panns (all labels equally)."
        },
    )
    min_epoch_steps: int = field(
        default=16,
        metadata={
            "help": "Minimum optimizer steps per epoch: an epoch makes several passes over a small set of positives."
        },
    )

    def __post_init__(self) -> None:
        if self.weak_weights not in LABEL_WEIGHTS:
            allowed = ", ".join(LABEL_WEIGHTS)
            raise ValueError(f"weak_weights={self.weak_weights}: unknown weights. Must be one of {allowed}.")
        if self.min_epoch_steps < 1:
            raise ValueError(f"min_epoch_steps={self.min_epoch_steps}: must be at least 1. Give a positive number.")

    @property
    def shares(self) -> tuple[float, float, float]:
        """Shares of positives, strong and weak negatives."""
        return self.positive_share, self.strong_share, self.weak_share


@dataclass(frozen=True)
class MiningSettings:
    """Hard-negative mining."""

    mining: bool = field(
        default=True, metadata={"help": "Draw negatives that the model mistakes for the target more often."}
    )
    mining_capacity: int = field(default=50_000, metadata={"help": "Maximum number of remembered hard negatives."})
    hard_threshold: float = field(default=0.5, metadata={"help": "Score above which a negative is hard."})
    max_uses: int = field(
        default=2,
        metadata={
            "help": "How often the hardest negatives may come per epoch; others come less often, at least once."
        },
    )
    score_memory: float = field(
        default=0.5, metadata={"help": "Weight of older scores in the score of a negative; 0 forgets them."}
    )
    suspect_threshold: float = field(
        default=0.95, metadata={"help": "Score above which a negative may be an unlabelled target."}
    )
    suspect_epochs: int = field(
        default=3,
        metadata={
            "help": "Epochs above suspect_threshold after which a negative is quarantined and listed for review."
        },
    )

    def __post_init__(self) -> None:
        if not 0 <= self.hard_threshold <= self.suspect_threshold <= 1:
            raise ValueError(
                f"hard_threshold={self.hard_threshold}, suspect_threshold={self.suspect_threshold}: not in order "
                "within 0 to 1. Give scores from 0 to 1, suspect_threshold at least hard_threshold."
            )
        if not 0 <= self.score_memory < 1:
            raise ValueError(
                f"score_memory={self.score_memory}: must be at least 0 and below 1. Give a weight in this range."
            )
        # max_uses is stored as int8 and suspect_epochs as uint8.
        for name, largest in (("mining_capacity", 2**30), ("max_uses", 127), ("suspect_epochs", 255)):
            if not 1 <= getattr(self, name) <= largest:
                raise ValueError(
                    f"{name}={getattr(self, name)}: must be from 1 to {largest:,}. Give a number in this range."
                )


@dataclass(frozen=True)
class ScoreSettings:
    """How clips are scored."""

    hop_seconds: float = field(default=0.5, metadata={"help": "Time between the starts of scored windows, s."})
    threshold_rule: str = field(
        default="f1",
        metadata={
            "help": "How the threshold is chosen on validation: f1 (maximum F1), recall:0.9 (the highest with this "
            "recall), false_alarms:10 (the lowest with at most this many false alarms per hour)."
        },
    )

    def __post_init__(self) -> None:
        if not self.hop_seconds > 0:
            raise ValueError(f"hop_seconds={self.hop_seconds}: must be above 0. Give a positive number of seconds.")
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
        metadata={"help": "Windows per training item that a frozen encoder embeds, each with its own augmentation."},
    )
    learning_rates: dict = field(
        default_factory=dict,
        metadata={
            "help": "Learning rates by part of the model (encoder, head) that replace learning_rate; on the "
            "command line --learning_rates.encoder 1e-4."
        },
    )

    def __post_init__(self) -> None:
        for key, value in self.encoder.items():
            if key not in ENCODER_KEYS:
                raise ValueError(f"encoder.{key}={value!r}: unknown key. Must be {' or '.join(ENCODER_KEYS)}.")
            if value is not None and not isinstance(value, str):
                raise ValueError(f"encoder.{key}={value!r}: not a string. Give a name.")
        if self.encoder and not self.encoder.get("name"):
            raise ValueError(f"encoder={self.encoder}: no name. Add one, for example efficientat_mn04_as.")
        check_front_end("encoder.name", self.encoder.get("name") or "")
        if self.encoder_views < 1:
            raise ValueError(f"encoder_views={self.encoder_views}: must be at least 1. Give a positive number.")
        check_part_rates(self.learning_rates)


@dataclass(frozen=True)
class DetectionTaskSettings(TaskSettings):
    """All settings of the detection task."""

    validation_metrics: ClassVar = {"average_precision": True, "roc_auc": True, "loss": False}
    not_streamed: ClassVar = "its clips are files, and each is already fetched ahead of its use"

    pools: PoolSettings
    windows: WindowSettings
    augmentation: Augmentation
    sampler: SamplerSettings
    mining: MiningSettings
    scores: ScoreSettings
    encoder: EncoderSettings


SETTINGS = DetectionTaskSettings
