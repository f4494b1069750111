"""Settings of the detection task."""

from dataclasses import dataclass, field

from evaluation.detection import check_rule
from tasks.detection.augmentation import Augmentation
from tasks.detection.mining import MiningSettings
from tasks.detection.pools import PoolSettings
from tasks.detection.sampler import SamplerSettings
from tasks.detection.windows import WindowSettings


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
class DetectionTaskSettings:
    """All settings of the detection task."""

    pools: PoolSettings
    windows: WindowSettings
    augmentation: Augmentation
    sampler: SamplerSettings
    mining: MiningSettings
    scores: ScoreSettings
