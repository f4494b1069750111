"""Vary training windows: gain, roll, background, mixup, and masks over features.

Every choice is a function of the sample's 64-bit seed, which travels with its index. Each augmentation draws from its
own random stream, so enabling one does not change the others, and no global generator is used.

"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# S samples per window, B windows per batch, T frames, F features


# Random streams derived from a sample's seed. The first two choose the window itself. Changing the order changes every
# training run.
PLACE, SUBSTITUTE, BACKGROUND, ROLL, GAIN, MIXUP, MIXUP_SHARE, TIME_MASK, FREQUENCY_MASK = range(9)
MIXUP_RULES = ("max", "linear")
# Limits both masks, so that at least a quarter of the features stays visible.
MAX_MASKED_SHARE = 0.5


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training windows; off by default."""

    gain_db: float = field(
        default=0.0, metadata={"help": "Maximum gain change of a window in either direction, dB; 0 disables it."}
    )
    roll_probability: float = field(
        default=0.0, metadata={"help": "Share of windows that are rotated in time by a random amount."}
    )
    background_probability: float = field(
        default=0.0, metadata={"help": "Share of windows that get a weak negative as background."}
    )
    background_snr_db: list[float] = field(
        default_factory=lambda: [0.0, 20.0],
        metadata={"help": "Signal-to-noise ratio of window to background: lowest and highest dB."},
    )
    mixup_probability: float = field(
        default=0.0, metadata={"help": "Share of windows that are mixed with another window of the batch."}
    )
    mixup_rule: str = field(
        default="max",
        metadata={"help": "Label of a mixture: max (positive if either part is) or linear (weighted like the audio)."},
    )
    mixup_alpha: float = field(
        default=10.0,
        metadata={
            "help": "Mixing weights are drawn from Beta(alpha, alpha): a large alpha gives about equal parts, 1 a "
            "uniform weight."
        },
    )
    spec_time_mask_frames: int = field(
        default=0, metadata={"help": "Maximum number of masked frames per window; 0 disables the mask."}
    )
    spec_frequency_mask_bins: int = field(
        default=0, metadata={"help": "Maximum number of masked features (mel bands); 0 disables the mask."}
    )

    def __post_init__(self) -> None:
        for name in ("roll_probability", "background_probability", "mixup_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be from 0 to 1. Give a share in this range.")
        if not 0 <= self.gain_db < math.inf:
            raise ValueError(
                f"gain_db={self.gain_db}: must be finite and at least 0. Give decibels; 6 scales the amplitude by 0.5 "
                "to 2."
            )
        snr = self.background_snr_db
        if len(snr) != 2 or not -math.inf < snr[0] <= snr[1] < math.inf:
            raise ValueError(
                f"background_snr_db={snr}: not a range. Give the lowest and the highest dB, for example [0, 20]."
            )
        if self.mixup_rule not in MIXUP_RULES:
            raise ValueError(f"mixup_rule={self.mixup_rule!r}: unknown rule. Must be {' or '.join(MIXUP_RULES)}.")
        if not 0 < self.mixup_alpha < math.inf:
            raise ValueError(f"mixup_alpha={self.mixup_alpha}: must be finite and above 0. Give a positive number.")
        for name in ("spec_time_mask_frames", "spec_frequency_mask_bins"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative. Give 0 or more.")

    def draw_background(self, count: int, seed: int) -> tuple[int, int, float] | None:
        """Return index (below `count`), window seed and SNR in dB of a random background; None: no background."""
        dice = random_stream(seed, BACKGROUND)
        if dice.random() >= self.background_probability:
            return None
        lowest, highest = self.background_snr_db
        return int(dice.integers(count)), int(dice.integers(2**63)), dice.uniform(lowest, highest)

    def roll(self, audio: np.ndarray, seed: int) -> np.ndarray:
        """Rotate a window (S,) by a random number of samples."""
        dice = random_stream(seed, ROLL)
        if dice.random() >= self.roll_probability:
            return audio
        return np.roll(audio, dice.integers(len(audio)))

    def change_gain(self, audio: np.ndarray, seed: int) -> np.ndarray:
        """Scale a window (S,) by a random gain from -gain_db to gain_db."""
        if not self.gain_db:
            return audio
        return audio * np.float32(10 ** (random_stream(seed, GAIN).uniform(-self.gain_db, self.gain_db) / 20))

    def mixup_partners(self, seeds: list[int]) -> np.ndarray:
        """Return the batch index of each window's mixup partner (B,), -1 for none.

        Windows with a negative seed are not training windows and stay unmixed.
        """
        partners = np.full(len(seeds), -1)
        for index, seed in enumerate(seeds):
            if seed < 0 or len(seeds) < 2:
                continue
            dice = random_stream(seed, MIXUP)
            if dice.random() < self.mixup_probability:
                # An offset of at least 1 never picks the window itself.
                partners[index] = (index + dice.integers(1, len(seeds))) % len(seeds)
        return partners

    def mix(self, audio: np.ndarray, labels: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Mix windows (B, S) and their labels (B,) with their partners; the window itself has the larger weight."""
        audio_mixed, labels_mixed = audio.copy(), labels.copy()
        for index, partner in enumerate(self.mixup_partners(seeds)):
            if partner < 0:
                continue
            share = random_stream(seeds[index], MIXUP_SHARE).beta(self.mixup_alpha, self.mixup_alpha)
            # The window stays the louder part, so its item and its label still describe it.
            own = np.float32(max(share, 1 - share))
            audio_mixed[index] = own * audio[index] + (1 - own) * audio[partner]
            pair = labels[index], labels[partner]
            labels_mixed[index] = max(pair) if self.mixup_rule == "max" else own * pair[0] + (1 - own) * pair[1]
        return audio_mixed, labels_mixed

    def mask_features(self, features: "torch.Tensor", seeds: list[int]) -> "torch.Tensor":
        """Apply SpecAugment to features (B, T, F): one block of frames and one of bands become the window's mean.

        Each mask covers at most half of its axis. Windows with a negative seed stay as they are.
        """
        masks = [(TIME_MASK, 0, self.spec_time_mask_frames), (FREQUENCY_MASK, 1, self.spec_frequency_mask_bins)]
        masks = [mask for mask in masks if mask[-1]]
        if not masks or max(seeds) < 0:
            return features
        if features.ndim != 3:
            raise ValueError(
                f"spec_time_mask_frames={self.spec_time_mask_frames}, "
                f"spec_frequency_mask_bins={self.spec_frequency_mask_bins}: masks need features (B, T, F), and this "
                f"extractor returns {tuple(features.shape)}. Set both to 0."
            )
        # Imported here because the command line is parsed before torch is loaded, which takes seconds.
        import torch

        hidden = np.zeros(features.shape, bool)  # (B, T, F)
        for window, seed in zip(hidden, seeds, strict=True):
            for stream, axis, most in masks if seed >= 0 else ():
                dice, size = random_stream(seed, stream), window.shape[axis]
                width = int(dice.integers(min(most, int(MAX_MASKED_SHARE * size)) + 1))
                first = int(dice.integers(size - width + 1))
                window.swapaxes(0, axis)[first : first + width] = True
        return torch.where(torch.from_numpy(hidden), features.mean((1, 2), keepdim=True), features)


def random_stream(seed: int, stream: int) -> np.random.Generator:
    """Return the generator of one augmentation for one sample."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream])))


def add_background(audio: np.ndarray, background: np.ndarray, snr_db: float) -> np.ndarray:
    """Add a background `snr_db` below a window (S,); a silent one of the two leaves the window unchanged."""
    # float64, because a float32 sum of many small squares loses precision.
    power, noise = (float(np.mean(np.square(sound, dtype=np.float64))) for sound in (audio, background))
    if not power or not noise:
        return audio
    return audio + background * np.float32(math.sqrt(power / noise / 10 ** (snr_db / 10)))
