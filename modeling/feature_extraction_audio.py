"""`AudioFeatureExtractor`: audio to log-mel or MFCC frames on the model's time grid, saved to the Hub with the model.

Every `hop_length` samples one spectrum (STFT) is computed, weighted by mel filters and converted to decibels. The
spectra are then averaged *by time* onto a slow grid of `frame_rate` Hz, on which skin conductance is predicted.
Spectra use double precision, as in librosa, so that quiet bands next to loud ones are exact. The rest is float32.
"""

# B clips, S samples, K spectra (one per hop), T frames of the grid, N samples of a window, M mel bands, F features

import itertools
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.audio_utils import mel_filter_bank

FLOOR = 1e-10  # power of the quietest level, -100 dB; this is librosa's `amin`
CPU_BLOCK = 2**19  # windowed samples processed at once: 4 MB in double precision stay near a core's cache
GPU_BLOCK = 2**25  # windowed samples processed at once: 256 MB
FEATURE_TYPES = ("log_mel", "mfcc")
MEL_SCALES = ("slaney", "htk")
MEL_NORMS = ("slaney", None)
POOLINGS = ("centered", "past")
HUB_KEYS = ("feature_extractor_type", "processor_class", "auto_map")  # keys that the Hub adds to the JSON
MAX_CHANNELS = 8  # a 2-D array with at most this many columns is (samples, channels), not a batch of tiny clips
MAX_FFT = 2**20  # samples of one spectrum: 22 s at 48 kHz


class AudioFeatureExtractor(FeatureExtractionMixin):
    """Batched log-mel or MFCC of mono audio, averaged by time onto a grid of `frame_rate` Hz.

    The values match librosa's `power_to_db(feature.melspectrogram(...), top_db=None)`, and its DCT-II for MFCC, within
    1e-4 dB for the same settings. There is one difference: librosa's `feature.mfcc(y)` first clips at 80 dB below the
    clip's loudest band. This class does not, because a frame would then depend on the whole clip. Averages over time
    are averages of dB.

    Frame i is at i / frame_rate s after the first sample. A clip of s seconds has floor(s * frame_rate) + 1 frames.
    Audio before and after a clip counts as zeros, so a clip has the same features alone and in a padded batch. Padding
    frames are exactly 0 and have mask 0.

    Settings, all saved in the JSON:
        sampling_rate: Hz of the input. Audio with another rate is refused, never resampled silently.
            22050 keeps up to 11 kHz, which is almost all of music's energy, at half the cost of 44100.
        feature_type: "log_mel" (dB; neighboring bands stay neighbors, which suits convolutions) or "mfcc".
        n_fft: samples of the Hann window, even. 2048 (93 ms) resolves the partials of low notes.
        hop_length: samples between spectra, at most n_fft. 512 (23 ms) gives 10.8 spectra per frame at 4 Hz.
        num_mel_bins: bands between min_frequency and max_frequency (Hz; None is half the sampling rate). 64 is half
            of librosa's 128: at 4 Hz and a few hundred songs, finer bands mostly add parameters.
        num_mfcc: coefficients for "mfcc", at most num_mel_bins.
        mel_scale: "slaney" (librosa's default: linear below 1 kHz) or "htk".
        mel_norm: "slaney" (bands have equal area) or None (equal height).
        frame_rate: Hz of the grid, or None for the spectra themselves (frame k at k * hop_length / sampling_rate).
        pooling: which spectra are averaged into frame i.
            "centered": spectra whose middle is in [(i - 0.5) / rate, (i + 0.5) / rate). Frame i is centered on its
            time, but depends on half a frame plus half a window of later audio: 0.171 s with the defaults.
            "past": spectra whose last sample is in ((i - 1) / rate, i / rate]. Nothing after i / rate is used, as a
            causal model needs. Audio before a clip is silence, so frame 0 is near the floor.
            The property `look_ahead_seconds` gives the limit for the current settings.
        double_precision: False computes spectra in float32, about twice as fast. Bands some 60 dB below a
            spectrum's loudest band are then off by up to 0.2 dB on real recordings, and by more next to a pure tone.

    >>> extractor = AudioFeatureExtractor(frame_rate=4.0)
    >>> batch = extractor([np.zeros(22050, np.float32), np.zeros(33075, np.float32)], sampling_rate=22050)
    >>> batch["input_features"].shape, batch["attention_mask"].sum(1)
    (torch.Size([2, 7, 64]), tensor([5, 7]))
    """

    sampling_rate: int
    feature_type: str
    n_fft: int
    hop_length: int
    num_mel_bins: int
    num_mfcc: int
    min_frequency: float
    max_frequency: float | None
    mel_scale: str
    mel_norm: str | None
    frame_rate: float | None
    pooling: str
    double_precision: bool

    model_input_names = ["input_features", "attention_mask"]
    padding_value, padding_side = 0.0, "right"  # read by transformers' pipelines when they batch clips

    def __init__(
        self,
        sampling_rate: int = 22050,
        feature_type: str = "log_mel",
        n_fft: int = 2048,
        hop_length: int = 512,
        num_mel_bins: int = 64,
        num_mfcc: int = 40,
        min_frequency: float = 0.0,
        max_frequency: float | None = None,
        mel_scale: str = "slaney",
        mel_norm: str | None = "slaney",
        frame_rate: float | None = 4.0,
        pooling: str = "centered",
        double_precision: bool = True,
        **hub: str | dict,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in ("self", "hub", "__class__")}
        for name in hub:
            if name not in HUB_KEYS:
                near = get_close_matches(name, settings, n=1)
                remedy = f"Did you mean {near[0]!r}?" if near else f"Give one of {', '.join(settings)}."
                raise ValueError(f"AudioFeatureExtractor: {name}={hub[name]!r}: unknown setting. {remedy}")
        hub.pop("feature_extractor_type", None)  # transformers writes the class name itself
        super().__init__(**settings, **hub)
        self._check_settings()

    def _check_settings(self) -> None:
        for name in ("sampling_rate", "n_fft", "hop_length", "num_mel_bins", "num_mfcc"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: must be a positive integer. Give one.")
        for name in ("min_frequency", "max_frequency", "frame_rate"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number and (value is not None or name == "min_frequency"):
                raise ValueError(f"{name}={value!r}: not a number. Give Hz.")
        for name, choices in (
            ("feature_type", FEATURE_TYPES),
            ("mel_scale", MEL_SCALES),
            ("mel_norm", MEL_NORMS),
            ("pooling", POOLINGS),
            ("double_precision", (True, False)),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name}={value!r}: unknown. Give one of {', '.join(map(repr, choices))}.")
        if self.n_fft > MAX_FFT:
            raise ValueError(f"n_fft={self.n_fft}: too long. Give at most {MAX_FFT} samples.")
        if self.num_mel_bins > self.n_fft // 2 + 1:
            raise ValueError(
                f"num_mel_bins={self.num_mel_bins}: more bands than the {self.n_fft // 2 + 1} frequencies of "
                f"n_fft={self.n_fft}. Lower num_mel_bins or raise n_fft."
            )
        if self.n_fft % 2:
            raise ValueError(f"n_fft={self.n_fft}: odd, so the window has no middle. Give an even number.")
        if self.hop_length > self.n_fft:
            raise ValueError(f"hop_length={self.hop_length}: skips samples. Give at most n_fft={self.n_fft}.")
        if self.feature_type == "mfcc" and self.num_mfcc > self.num_mel_bins:
            raise ValueError(f"num_mfcc={self.num_mfcc}: too many. Give at most num_mel_bins={self.num_mel_bins}.")
        if not 0 <= self.min_frequency < self._top_frequency <= self.sampling_rate / 2:
            raise ValueError(
                f"min_frequency={self.min_frequency}, max_frequency={self.max_frequency}: out of range. Give "
                f"0 <= min < max <= {self.sampling_rate / 2} Hz, half the sampling rate."
            )
        highest_rate = self.sampling_rate / self.hop_length / (2 if self.pooling == "centered" else 1)
        if self.frame_rate is not None and not 0 < self.frame_rate <= highest_rate:
            raise ValueError(
                f"frame_rate={self.frame_rate}: some frames would have no spectrum. Give above 0 and at most "
                f"{highest_rate:.3f} Hz, or lower hop_length={self.hop_length}."
            )
        # Narrow bands may fall between two frequencies of the spectrum.
        silent = int((self._mel_filters().sum(0) == 0).sum())
        if silent:
            raise ValueError(
                f"num_mel_bins={self.num_mel_bins}: {silent} bands contain no frequency of n_fft={self.n_fft} and "
                "would always be silent. Lower num_mel_bins or raise n_fft."
            )

    @property
    def feature_size(self) -> int:
        """Features per frame (F), the model's input size."""
        return self.num_mfcc if self.feature_type == "mfcc" else self.num_mel_bins

    @property
    def feature_names(self) -> list[str]:
        """Name of each feature, lowest first: the peak frequency of its mel band, or its coefficient."""
        if self.feature_type == "mfcc":
            return [f"MFCC {number}" for number in range(self.num_mfcc)]
        peaks = np.asarray(self._mel_filters()).argmax(0)  # (M,) indices into the spectrum
        return [f"{peak * self.sampling_rate / self.n_fft:.0f} Hz" for peak in peaks]

    @property
    def look_ahead_seconds(self) -> float:
        """Seconds of audio after i / frame_rate that frame i may depend on; 0 for "past"."""
        if self.pooling == "past":
            return 0.0
        half_frame = 0.0 if self.frame_rate is None else 0.5 / self.frame_rate
        return half_frame + (self.n_fft // 2 - 1) / self.sampling_rate

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames (T) of a clip with `num_samples` samples."""
        if self.frame_rate is None:
            return num_samples // self.hop_length + 1
        rate = self._exact_frame_rate
        return num_samples * rate.numerator // (self.sampling_rate * rate.denominator) + 1

    @torch.no_grad()
    def __call__(
        self,
        audio: np.ndarray | torch.Tensor | list,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        device: str | torch.device | None = None,
    ) -> BatchFeature:
        """Compute features of one clip (samples,), of clips of equal length (B, S), or of a list of clips (samples,).

        Spectra are computed in blocks, so memory is the batch in float32, twice its features before pooling, and about
        10 MB (under 1 GB on a GPU), for clips of any length.

        Args:
            audio: float samples, 1.0 at full scale.
            sampling_rate: Hz. Must be that of the extractor.
            return_tensors: "pt" for torch tensors, "np" for arrays.
            device: device of the tensors. By default that of the audio.

        Returns:
            `input_features` (B, T, F) float32, 0 after a clip's end, and `attention_mask` (B, T) int64.
        """
        self._check_rate(sampling_rate)
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors={return_tensors!r}: unknown. Give 'pt' or 'np'.")
        clips = _to_clips(audio)
        samples = [len(clip) for clip in clips]
        padded = self._pad(clips).to(device or clips[0].device)
        features = self._log_mel(padded)  # (B, K, M)
        if self.frame_rate is not None:
            features = self._pool(features, samples)  # (B, T, M)
        features = self._coefficients(features)
        frames = torch.tensor([self.num_frames(n) for n in samples], device=features.device)
        mask = torch.arange(features.shape[1], device=features.device) < frames[:, None]
        features = features.masked_fill(~mask[..., None], 0.0)
        batch = {"input_features": features, "attention_mask": mask.long()}
        return BatchFeature({name: x if return_tensors == "pt" else x.cpu().numpy() for name, x in batch.items()})

    @torch.no_grad()
    def stream(self, blocks: Iterable[np.ndarray], sampling_rate: int) -> Iterator[torch.Tensor]:
        """Compute the features of one long clip from blocks (samples,) of any length. Yield (1, t, F), t >= 1.

        Together the pieces equal the features of the whole clip. Memory does not grow with the clip's length.
        """
        self._check_rate(sampling_rate)
        sound = torch.zeros(self._zeros_before)  # samples that later windows need
        spectra = torch.zeros(1, 0, self.num_mel_bins)  # spectra that later frames need
        samples = 0  # read so far
        first_spectrum = 0  # index of spectra[:, 0] in the whole clip
        frames = 0  # returned so far
        for block in itertools.chain(blocks, (None,)):
            if block is None:
                if not samples:
                    raise ValueError("blocks: no samples. Give at least one.")
                sound = torch.cat([sound, torch.zeros(self.n_fft - self._zeros_before)])
            elif len(block):
                clip = _to_clip(block, index=0)
                # The sum is finite for almost every clip, and cheaper than a test of each sample.
                if not clip.sum().isfinite() and not clip.isfinite().all():
                    raise ValueError(f"samples {samples} to {samples + len(clip)}: NaN or infinite. Leave it out.")
                sound, samples = torch.cat([sound, clip]), samples + len(clip)
            hops = (len(sound) - self.n_fft) // self.hop_length + 1
            if hops > 0:
                complete = (hops - 1) * self.hop_length + self.n_fft
                spectra = torch.cat([spectra, self._log_mel(sound[None, :complete])], 1)
                sound = sound[hops * self.hop_length :]
            end_spectrum = first_spectrum + spectra.shape[1]
            if self.frame_rate is None:
                first = np.arange(frames, end_spectrum + 1)
            else:
                first = self._first_hops(frames, self.num_frames(samples) if samples else 0)
                if block is not None:  # wait for all spectra of a frame, unless the clip has ended
                    first = first[: 1 + np.count_nonzero(first[1:] <= end_spectrum)]
            if len(first) > 1:
                inside = torch.from_numpy(first - first_spectrum)
                counts = torch.tensor([spectra.shape[1]])
                yield self._coefficients(spectra if self.frame_rate is None else _means(spectra, inside, counts))
                frames += len(first) - 1
                spectra = spectra[:, first[-1] - first_spectrum :]
                first_spectrum = first[-1]

    def _check_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate={sampling_rate}: must be {self.sampling_rate}. Resample the audio to this rate."
            )

    def _coefficients(self, features: torch.Tensor) -> torch.Tensor:
        """Convert dB (B, T, M) to the features of `feature_type`, (B, T, F)."""
        if self.feature_type != "mfcc":
            return features
        dct = _dct_matrix(self.num_mel_bins, self.num_mfcc).to(features.device)
        return (features.double() @ dct).float()

    @property
    def _zeros_before(self) -> int:
        """Zeros before a clip. k * hop is the middle of window k ("centered") or its last sample ("past")."""
        return self.n_fft // 2 if self.pooling == "centered" else self.n_fft - 1

    @property
    def _top_frequency(self) -> float:
        return self.sampling_rate / 2 if self.max_frequency is None else self.max_frequency

    @property
    def _exact_frame_rate(self) -> Fraction:
        # Recover 0.1 or 1/3 Hz exactly: with floats, a frame would be lost whenever s * rate is an integer.
        return Fraction(self.frame_rate).limit_denominator(1_000_000)

    def _mel_filters(self) -> torch.Tensor:
        return _mel_filters(
            self.sampling_rate, self.n_fft, self.num_mel_bins, self.min_frequency, self._top_frequency,
            self.mel_scale, self.mel_norm,
        )  # fmt: skip

    def _pad(self, clips: list[torch.Tensor]) -> torch.Tensor:
        """Pad clips with zeros on both sides to (B, S + N)."""
        before = self._zeros_before
        padded = clips[0].new_zeros(len(clips), max(map(len, clips)) + self.n_fft)
        for index, clip in enumerate(clips):
            padded[index, before : before + len(clip)] = clip
        # One sum per clip is cheaper than testing every sample. A finite clip may still overflow, hence the count.
        for index in (~padded.sum(1).isfinite()).nonzero().flatten().tolist():
            bad = int((~torch.isfinite(clips[index])).sum())
            if bad:
                samples = len(clips[index])
                raise ValueError(f"clip {index}: {bad} of {samples} samples are NaN or infinite. Leave it out.")
        return padded

    def _log_mel(self, padded: torch.Tensor) -> torch.Tensor:
        """Convert padded audio (B, S + N) to dB (B, K, M), in blocks of as many hops of all clips as fit."""
        precision = torch.float64 if self.double_precision else torch.float32
        window = torch.hann_window(self.n_fft, dtype=torch.float64).to(padded.device, precision)
        # Real and imaginary parts alternate in memory. With each filter weight repeated, one matrix product adds their
        # squares and sums over the band.
        filters = self._mel_filters().repeat_interleave(2, 0).to(padded.device)
        hops = (padded.shape[1] - self.n_fft) // self.hop_length + 1
        power = padded.new_empty(len(padded), hops, self.num_mel_bins)
        block = max(1, (GPU_BLOCK if padded.is_cuda else CPU_BLOCK) // (self.n_fft * len(padded)))
        for start in range(0, hops, block):
            stop = min(start + block, hops)
            sound = padded[:, start * self.hop_length : (stop - 1) * self.hop_length + self.n_fft].to(precision)
            spectrum = torch.fft.rfft(sound.unfold(1, self.n_fft, self.hop_length) * window)
            power[:, start:stop] = torch.view_as_real(spectrum).float().square_().flatten(2) @ filters
        return power.clamp_(min=FLOOR).log10_().mul_(10.0)

    def _pool(self, features: torch.Tensor, samples: list[int]) -> torch.Tensor:
        """Average the spectra (B, K, M) of each frame, using only the clip's own spectra. Return (B, T, M)."""
        first = torch.from_numpy(self._first_hops(0, max(map(self.num_frames, samples)))).to(features.device)
        return _means(features, first, torch.tensor(samples, device=features.device) // self.hop_length + 1)

    def _first_hops(self, start: int, stop: int) -> np.ndarray:
        """Return the index of the first spectrum of frames start to stop (inclusive), (stop - start + 1,)."""
        # Integer arithmetic: floats would put a spectrum on a frame's border into the wrong frame.
        rate = self._exact_frame_rate
        up, down = self.sampling_rate * rate.denominator, self.hop_length * rate.numerator  # up / down hops per frame
        i = np.arange(start, stop + 1, dtype=np.int64)
        if self.pooling == "centered":
            first = -((1 - 2 * i) * up // (2 * down))  # smallest k with k * down >= (i - 1/2) * up
        else:
            first = (i - 1) * up // down + 1  # smallest k with k * down > (i - 1) * up
        return first.clip(min=0)


def _means(spectra: torch.Tensor, first: torch.Tensor, hops: torch.Tensor) -> torch.Tensor:
    """Average spectra (B, K, M) from first[i] up to first[i + 1]; clip b has hops[b] of them. Return (B, T, M)."""
    counts = (first[1:].minimum(hops[:, None]) - first[:-1]).clamp(min=0)  # (B, T)
    steps = torch.arange(int((first[1:] - first[:-1]).max()), device=spectra.device)
    index = (first[:-1, None] + steps).clamp(max=spectra.shape[1] - 1)  # (T, steps)
    inside = steps < counts[..., None]  # (B, T, steps)
    total = spectra[:, index].mul_(inside[..., None]).sum(2)
    return total / counts.clamp(min=1)[..., None]


def _to_clips(audio: np.ndarray | torch.Tensor | list) -> list[torch.Tensor]:
    """Convert to a list of clips (samples,), float32. Raise ValueError unless all are mono floats with samples."""
    if isinstance(audio, np.ndarray | torch.Tensor):
        if audio.ndim > 2 or (audio.ndim == 2 and audio.shape[1] <= MAX_CHANNELS < audio.shape[0]):
            raise ValueError(
                f"audio.shape={tuple(audio.shape)}: looks like (samples, channels). Average the channels, and give "
                "one clip (samples,), a batch (clips, samples) or a list of clips."
            )
        clips = [audio] if audio.ndim < 2 else list(audio)
    elif isinstance(audio, list | tuple):
        clips = [np.asarray(audio)] if audio and np.isscalar(audio[0]) else list(audio)
    else:
        raise ValueError(f"audio: has type {type(audio).__name__}. Give an array, a tensor or a list of them.")
    if not clips:
        raise ValueError("audio: no clips. Give at least one.")
    return [_to_clip(clip, index) for index, clip in enumerate(clips)]


def _to_clip(clip: np.ndarray | torch.Tensor | list, index: int) -> torch.Tensor:
    try:
        tensor = clip if isinstance(clip, torch.Tensor) else torch.from_numpy(np.require(clip, requirements="CW"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"clip {index}: not an array of numbers ({error}). Give float samples (samples,).") from None
    if tensor.ndim != 1:
        raise ValueError(
            f"clip {index}: has shape {tuple(tensor.shape)}. Average the channels, and give one mono clip (samples,)."
        )
    if not tensor.is_floating_point():
        raise ValueError(
            f"clip {index}: samples are {tensor.dtype}. Give floats with 1.0 at full scale (int16: divide by 32768)."
        )
    if not len(tensor):
        raise ValueError(f"clip {index}: 0 samples. Leave it out.")
    return tensor.float()


# Filters are cached per process and settings. Stored in the extractor, they would change its fingerprint, and with it
# the cache key of `Dataset.map`.


@lru_cache(maxsize=16)
def _mel_filters(
    sampling_rate: int, n_fft: int, bands: int, low: float, high: float, scale: str, norm: str | None
) -> torch.Tensor:
    filters = mel_filter_bank(n_fft // 2 + 1, bands, low, high, sampling_rate, norm=norm, mel_scale=scale)
    return torch.from_numpy(filters).float()  # (N // 2 + 1, M)


@lru_cache(maxsize=16)
def _dct_matrix(bands: int, coefficients: int) -> torch.Tensor:
    """Return the orthonormal DCT-II (M, coefficients)."""
    # Double precision: in float32, sums of M values near -100 lose 1e-4.
    angles = np.pi / bands * np.outer(np.arange(bands) + 0.5, np.arange(coefficients))
    matrix = np.cos(angles) * np.sqrt(2.0 / bands)
    matrix[:, 0] /= np.sqrt(2.0)
    return torch.from_numpy(matrix)
