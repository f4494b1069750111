"""Features for EfficientAT: pre-emphasis, power spectra, Kaldi's mel filters, logarithm, fixed scaling."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torchaudio.compliance.kaldi import get_mel_banks
from transformers import BatchFeature, FeatureExtractionMixin

# B clips, S samples, T frames, F mel bands

FFT, WINDOW = 1024, 800  # samples at SAMPLING_RATE
PRE_EMPHASIS = 0.97
POWER_FLOOR = 1e-5  # added to the power before the logarithm
MEAN, SPREAD = -4.5, 5.0  # scaling that the published weights were trained with
# Kaldi's frequency warp for the length of a vocal tract. A factor of 1 switches it off.
WARP_LOW, WARP_HIGH, WARP_FACTOR = 100.0, -500.0, 1.0


class EfficientAtFeatureExtractor(FeatureExtractionMixin):
    """Clips (S,) of equal length to `input_features` (B, T, F) float32, one frame every `hop_length` samples.

    Args:
        sampling_rate: Hz.
        hop_length: samples from frame to frame.
        num_mel_bins: mel bands (F).
        max_frequency: upper edge of the highest band, in Hz.
    """

    model_input_names = ["input_features"]

    def __init__(
        self,
        sampling_rate: int = 32000,
        hop_length: int = 320,
        num_mel_bins: int = 128,
        max_frequency: float = 15000.0,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < max_frequency <= sampling_rate / 2:
            raise ValueError(
                f"EfficientAtFeatureExtractor: max_frequency={max_frequency:g}: must be above 0 and at most "
                f"{sampling_rate / 2:g}, half of sampling_rate={sampling_rate}. Lower it, or raise sampling_rate."
            )
        self.sampling_rate, self.hop_length = sampling_rate, hop_length
        self.num_mel_bins, self.max_frequency = num_mel_bins, max_frequency

    @property
    def frame_rate(self) -> float:
        """Return the frames per second."""
        return self.sampling_rate / self.hop_length

    @property
    def feature_size(self) -> int:
        """Return the features per frame (F)."""
        return self.num_mel_bins

    @torch.no_grad()
    def __call__(
        self,
        audio: np.ndarray | torch.Tensor | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **kwargs: object,
    ) -> BatchFeature:
        """Compute features of one clip (S,), or of clips of equal length: (B, S) or a list of (S,)."""
        if sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate={sampling_rate}: must be {self.sampling_rate}. Resample the audio to this rate."
            )
        clips = [torch.as_tensor(np.asarray(clip), dtype=torch.float32) for clip in as_list(audio)]
        lengths = {len(clip) for clip in clips}
        if len(lengths) != 1 or min(lengths) <= FFT // 2:
            raise ValueError(
                f"audio: clips of {min(lengths, default=0)} to {max(lengths, default=0)} samples. Give clips of equal "
                f"length, longer than {FFT // 2} samples."
            )
        features = self.log_mel(torch.stack(clips))
        if return_tensors == "np":
            return BatchFeature({"input_features": features.numpy()})
        return BatchFeature({"input_features": features})

    def log_mel(self, audio: torch.Tensor) -> torch.Tensor:
        """Convert clips (B, S) to scaled log-mel spectra (B, T, F)."""
        emphasised = audio[:, 1:] - PRE_EMPHASIS * audio[:, :-1]
        # Symmetric window, like the code that the weights were published with.
        window = torch.hann_window(WINDOW, periodic=False)
        spectra = torch.stft(
            emphasised, FFT, hop_length=self.hop_length, win_length=WINDOW, window=window, return_complex=True
        )
        power = spectra.real.square() + spectra.imag.square()  # (B, FFT / 2 + 1, T)
        filters = mel_filters(self.num_mel_bins, self.sampling_rate, self.max_frequency)
        mel = torch.einsum("mf,bft->btm", filters, power)
        return ((mel + POWER_FLOOR).log() - MEAN) / SPREAD


@functools.lru_cache(maxsize=8)
def mel_filters(count: int, sampling_rate: int, max_frequency: float) -> torch.Tensor:
    """Return Kaldi's mel filters (count, FFT / 2 + 1)."""
    filters, _ = get_mel_banks(count, FFT, sampling_rate, 0.0, max_frequency, WARP_LOW, WARP_HIGH, WARP_FACTOR)
    return torch.nn.functional.pad(filters, (0, 1))  # Kaldi leaves out the highest frequency, torch.stft has it


def as_list(audio: np.ndarray | torch.Tensor | Sequence[np.ndarray]) -> list:
    """Convert one clip or several to a list of clips."""
    if isinstance(audio, np.ndarray | torch.Tensor):
        return [audio] if audio.ndim == 1 else list(audio)
    return [audio] if len(audio) and np.ndim(audio[0]) == 0 else list(audio)
