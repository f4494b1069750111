"""What makes one recording many: gain, roll, background, mixtures, and masks over spectra.

Everything is a function of a sample's seed, 64 bits that travel with its index. Each augmentation draws from a stream
of its own, so that switching one on changes nothing of the others, and nobody touches a global generator.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# S samples of a window, B windows of a batch, T frames, F features


# Streams of random numbers of one seed; the first two are those of the windows themselves.
PLACE, SUBSTITUTE, BACKGROUND, ROLL, GAIN, MIXUP, MIXUP_SHARE, TIME_MASK, FREQUENCY_MASK = range(9)
MIXUP_RULES = ("max", "linear")
MOST_MASKED = 0.5  # of the frames, and of the features


@dataclass(frozen=True)
class Augmentation:
    """How training windows are varied; nothing is by default."""

    gain_db: float = field(
        default=0.0, metadata={"help": "Windows are made louder or softer by up to so many dB; 0 for none."}
    )
    roll_probability: float = field(
        default=0.0, metadata={"help": "Share of windows whose end is moved to their beginning, by a random length."}
    )
    background_probability: float = field(
        default=0.0, metadata={"help": "Share of windows with that of a weak negative in the background."}
    )
    background_snr_db: list[float] = field(
        default_factory=lambda: [0.0, 20.0],
        metadata={"help": "How much louder than the background a window is: lowest and highest dB."},
    )
    mixup_probability: float = field(
        default=0.0, metadata={"help": "Share of windows that are mixed with another of their batch."}
    )
    mixup_rule: str = field(
        default="max",
        metadata={
            "help": "Label of a mixture: max (it holds the target if a part does) or linear (weighted like the sound)."
        },
    )
    mixup_alpha: float = field(
        default=10.0,
        metadata={"help": "Weights of a mixture are Beta(alpha, alpha): large for halves, 1 for any."},
    )
    spec_time_mask_frames: int = field(
        default=0, metadata={"help": "Up to so many frames of each window's features are masked; 0 for none."}
    )
    spec_frequency_mask_bins: int = field(
        default=0, metadata={"help": "Up to so many of the features (mel bands) are masked; 0 for none."}
    )

    def __post_init__(self) -> None:
        for name in ("roll_probability", "background_probability", "mixup_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give 0 to 1")
        if not 0 <= self.gain_db < math.inf:
            raise ValueError(f"gain_db = {self.gain_db}: give 0 or more; 6 is from half to twice the amplitude")
        snr = self.background_snr_db
        if len(snr) != 2 or not -math.inf < snr[0] <= snr[1] < math.inf:
            raise ValueError(f"background_snr_db = {snr}: give the lowest and the highest dB, such as [0, 20]")
        if self.mixup_rule not in MIXUP_RULES:
            raise ValueError(f"mixup_rule = {self.mixup_rule!r} is not known; it takes {' or '.join(MIXUP_RULES)}")
        if not 0 < self.mixup_alpha < math.inf:
            raise ValueError(f"mixup_alpha = {self.mixup_alpha}: give above 0")
        for name in ("spec_time_mask_frames", "spec_frequency_mask_bins"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: give 0 or more")

    def background(self, count: int, seed: int) -> tuple[int, int, float] | None:
        """Which of so many backgrounds a window gets, with the seed for its place and the SNR in dB; None for none."""
        dice = random_stream(seed, BACKGROUND)
        if dice.random() >= self.background_probability:
            return None
        lowest, highest = self.background_snr_db
        return int(dice.integers(count)), int(dice.integers(2**63)), dice.uniform(lowest, highest)

    def rolled(self, audio: np.ndarray, seed: int) -> np.ndarray:
        """A window (S,) that begins somewhere in it, what was before that following its end."""
        dice = random_stream(seed, ROLL)
        if dice.random() >= self.roll_probability:
            return audio
        return np.roll(audio, dice.integers(len(audio)))

    def amplified(self, audio: np.ndarray, seed: int) -> np.ndarray:
        """A window (S,) by -gain_db to gain_db louder."""
        if not self.gain_db:
            return audio
        return audio * np.float32(10 ** (random_stream(seed, GAIN).uniform(-self.gain_db, self.gain_db) / 20))

    def mixed_with(self, seeds: list[int]) -> np.ndarray:
        """The place in the batch of what each window is mixed with (B,), -1 for nothing; by seeds and their order.

        Windows of negative seeds, which are not training's, stay as they are.
        """
        others = np.full(len(seeds), -1)
        for place, seed in enumerate(seeds):
            if seed < 0 or len(seeds) < 2:
                continue
            dice = random_stream(seed, MIXUP)
            if dice.random() < self.mixup_probability:
                others[place] = (place + dice.integers(1, len(seeds))) % len(seeds)
        return others

    def mixture(self, audio: np.ndarray, labels: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Windows (B, S) mixed with others of the batch, each the louder part of its own mixture, and labels (B,)."""
        audio_mixed, labels_mixed = audio.copy(), labels.copy()
        for place, other in enumerate(self.mixed_with(seeds)):
            if other < 0:
                continue
            share = random_stream(seeds[place], MIXUP_SHARE).beta(self.mixup_alpha, self.mixup_alpha)
            own = np.float32(max(share, 1 - share))
            audio_mixed[place] = own * audio[place] + (1 - own) * audio[other]
            pair = labels[place], labels[other]
            labels_mixed[place] = max(pair) if self.mixup_rule == "max" else own * pair[0] + (1 - own) * pair[1]
        return audio_mixed, labels_mixed

    def masked(self, features: "torch.Tensor", seeds: list[int]) -> "torch.Tensor":
        """Features (B, T, F) with SpecAugment's masks, a block of frames and one of features at their window's mean.

        Never more than half of either, and nothing of windows of negative seeds.
        """
        masks = [(TIME_MASK, 0, self.spec_time_mask_frames), (FREQUENCY_MASK, 1, self.spec_frequency_mask_bins)]
        masks = [mask for mask in masks if mask[-1]]
        if not masks or max(seeds) < 0:
            return features
        if features.ndim != 3:
            raise ValueError(
                "spec_time_mask_frames and spec_frequency_mask_bins are for features (B, T, F), but this extractor "
                f"gives {tuple(features.shape)}; set both 0"
            )
        import torch  # here, for a command line is read before torch is imported

        hidden = np.zeros(features.shape, bool)
        for window, seed in zip(hidden, seeds, strict=True):
            for stream, axis, most in masks if seed >= 0 else ():
                dice, size = random_stream(seed, stream), window.shape[axis]
                width = int(dice.integers(min(most, int(MOST_MASKED * size)) + 1))
                first = int(dice.integers(size - width + 1))
                window.swapaxes(0, axis)[first : first + width] = True
        return torch.where(torch.from_numpy(hidden), features.mean((1, 2), keepdim=True), features)


def random_stream(seed: int, stream: int) -> np.random.Generator:
    """Random numbers of one purpose of one sample."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream])))


def with_background(audio: np.ndarray, background: np.ndarray, snr_db: float) -> np.ndarray:
    """A window (S,) and one behind it whose mean square is `snr_db` dB below; where either is silent, as it was."""
    power, noise = (float(np.mean(np.square(sound, dtype=np.float64))) for sound in (audio, background))
    if not power or not noise:
        return audio
    return audio + background * np.float32(math.sqrt(power / noise / 10 ** (snr_db / 10)))
