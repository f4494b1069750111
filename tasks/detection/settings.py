"""Settings of the detection task."""

from dataclasses import dataclass, field

from evaluation.detection import check_rule
from tasks.detection.augmentation import Augmentation
from tasks.detection.mining import MiningSettings
from tasks.detection.pools import PoolSettings
from tasks.detection.sampler import SamplerSettings
from tasks.detection.windows import WindowSettings
from training.part_rates import check_part_rates

KEYS_OF_ENCODER = ("name", "revision")


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
        if self.encoder_views < 1:
            raise ValueError(f"encoder_views={self.encoder_views}: an item has no window. Give 1 or more.")
        check_part_rates(self.learning_rates)


@dataclass(frozen=True)
class DetectionTaskSettings:
    """All settings of the detection task."""

    pools: PoolSettings
    windows: WindowSettings
    augmentation: Augmentation
    sampler: SamplerSettings
    mining: MiningSettings
    scores: ScoreSettings
    encoder: EncoderSettings
