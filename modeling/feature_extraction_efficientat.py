"""The front end of EfficientAT: pre-emphasis, power spectra, Kaldi's mel filters, logarithm, fixed scaling."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torchaudio.compliance.kaldi import get_mel_banks
from transformers import BatchFeature, FeatureExtractionMixin

# B clips, S samples, T frames, F mel bands

FFT, WINDOW = 1024, 800  # samples at SAMPLING_RATE
PRE_EMPHASIS = 0.97
QUIETEST = 1e-5  # added to the power before its logarithm
MEAN, SPREAD = -4.5, 5.0  # the scale of the published weights
# Kaldi's warp of the frequencies by the length of a vocal tract, which does nothing at a factor of 1.
WARP_LOW, WARP_HIGH, WARP_FACTOR = 100.0, -500.0, 1.0


class EfficientAtFeatureExtractor(FeatureExtractionMixin):
    """Sounds (S,) of one length to `input_features` (B, T, F) float32, with one frame every `hop_length` samples.

    Args:
        sampling_rate: Hz.
        hop_length: samples from frame to frame.
        num_mel_bins: mel bands (F).
        max_frequency: Hz, upper edge of the highest band.
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
                f"EfficientAtFeatureExtractor: max_frequency={max_frequency:g} with sampling_rate={sampling_rate}: "
                f"sounds have up to {sampling_rate / 2:g} Hz. Take another rate, such as 32000."
            )
        self.sampling_rate, self.hop_length = sampling_rate, hop_length
        self.num_mel_bins, self.max_frequency = num_mel_bins, max_frequency

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sampling_rate / self.hop_length

    @property
    def feature_size(self) -> int:
        """Features per frame (F)."""
        return self.num_mel_bins

    @torch.no_grad()
    def __call__(
        self,
        audio: np.ndarray | torch.Tensor | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **kwargs: object,
    ) -> BatchFeature:
        """Features of one sound (S,), or of sounds of one length: (B, S) or a list of (S,)."""
        if sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate={sampling_rate}: the extractor takes {self.sampling_rate} Hz. Resample the sound."
            )
        sounds = [torch.as_tensor(np.asarray(sound), dtype=torch.float32) for sound in as_list(audio)]
        lengths = {len(sound) for sound in sounds}
        if len(lengths) != 1 or min(lengths) <= FFT // 2:
            raise ValueError(
                f"audio: sounds of {min(lengths, default=0)} to {max(lengths, default=0)} samples. EfficientAT takes "
                f"windows of one length, of more than {FFT // 2} samples."
            )
        features = self.log_mel(torch.stack(sounds))
        if return_tensors == "np":
            return BatchFeature({"input_features": features.numpy()})
        return BatchFeature({"input_features": features})

    def log_mel(self, audio: torch.Tensor) -> torch.Tensor:
        """Sounds (B, S) to scaled log-mel spectra (B, T, F)."""
        emphasised = audio[:, 1:] - PRE_EMPHASIS * audio[:, :-1]
        window = torch.hann_window(WINDOW, periodic=False)
        spectra = torch.stft(
            emphasised, FFT, hop_length=self.hop_length, win_length=WINDOW, window=window, return_complex=True
        )
        power = spectra.real.square() + spectra.imag.square()  # (B, FFT / 2 + 1, T)
        filters = mel_filters(self.num_mel_bins, self.sampling_rate, self.max_frequency)
        mel = torch.einsum("mf,bft->btm", filters, power)
        return ((mel + QUIETEST).log() - MEAN) / SPREAD


@functools.lru_cache(maxsize=8)
def mel_filters(count: int, sampling_rate: int, max_frequency: float) -> torch.Tensor:
    """Kaldi's mel filters (count, FFT / 2 + 1)."""
    filters, _ = get_mel_banks(count, FFT, sampling_rate, 0.0, max_frequency, WARP_LOW, WARP_HIGH, WARP_FACTOR)
    return torch.nn.functional.pad(filters, (0, 1))  # Kaldi leaves out the highest frequency


def as_list(audio: np.ndarray | torch.Tensor | Sequence[np.ndarray]) -> list:
    """One sound or several as a list of sounds."""
    if isinstance(audio, np.ndarray | torch.Tensor):
        return [audio] if audio.ndim == 1 else list(audio)
    return [audio] if len(audio) and np.ndim(audio[0]) == 0 else list(audio)
