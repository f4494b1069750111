"""Sound to log-mel or MFCC frames on the model's time grid: `AudioFeatureExtractor`, which travels to the Hub.

A sequence of spectra (STFT) is taken every `hop_length` samples, weighed by mel filters, brought to decibels, and then
averaged *by time* onto a slow grid of `frame_rate` Hz, on which skin conductance is predicted. Spectra are computed in
double precision, as librosa does, so that quiet bands are right also beside loud ones; all else is float32.
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

FLOOR = 1e-10  # power below which a band is as good as silent: -100 dB, librosa's `amin`
CPU_BLOCK = 2**19  # windowed samples worked on at once: 4 MB in double precision stay near a core's cache
GPU_BLOCK = 2**25  # windowed samples worked on at once: 256 MB
FEATURE_TYPES = ("log_mel", "mfcc")
MEL_SCALES = ("slaney", "htk")
MEL_NORMS = ("slaney", None)
POOLINGS = ("centered", "past")
HUB_KEYS = ("feature_extractor_type", "processor_class", "auto_map")  # what the Hub writes into the JSON beside ours
CHANNELS = 8  # at most this many numbers a row: taken for (samples, channels), not for clips of a few samples
LONGEST_WINDOW = 2**20  # samples of one spectrum: 22 s at 48 kHz


class AudioFeatureExtractor(FeatureExtractionMixin):
    """Batched log-mel or MFCC of mono sound, averaged by time onto a grid of `frame_rate` Hz.

    The numbers are librosa's: `power_to_db(feature.melspectrogram(...), top_db=None)`, and its DCT-II for MFCC, for
    the same settings, to 1e-4 dB on any sound. librosa's `feature.mfcc(y)` clips at 80 dB below a clip's loudest band
    first; this does not, as a frame would then depend on a clip's other end. Means over time are means of dB.

    Frame i of the grid stands for the time i / frame_rate s after the first sample; a clip of s seconds has
    floor(s * frame_rate) + 1 frames. Beyond both ends of a clip the sound is taken as zeros, so a clip in a padded
    batch has the features that it has alone. What is beyond a clip's frames in a batch is exactly 0 with mask 0.

    Settings, all saved in the JSON:
        sampling_rate: Hz of the sound that comes in; another one is refused, never resampled behind your back.
            22050 keeps up to 11 kHz, where almost all of music's energy is, at half the cost of 44100.
        feature_type: "log_mel" (dB; neighbouring bands stay neighbours, which convolutions use) or "mfcc".
        n_fft: samples of the Hann window, even; 2048 (93 ms) tells apart the partials of low notes.
        hop_length: samples between spectra, at most n_fft; 512 (23 ms) puts 10.8 spectra into a frame at 4 Hz.
        num_mel_bins: bands between min_frequency and max_frequency (Hz; None is half the sampling rate). 64 is half
            of librosa's 128: at 4 Hz and some hundred songs the finer half adds parameters rather than knowledge.
        num_mfcc: coefficients kept for "mfcc", at most num_mel_bins.
        mel_scale: "slaney" (librosa's default: linear below 1 kHz) or "htk".
        mel_norm: "slaney" (bands have equal area) or None (equal height).
        frame_rate: Hz of the grid, or None for the spectra themselves (frame k at k * hop_length / sampling_rate).
        pooling: which spectra are averaged into frame i.
            "centered": those whose middle lies in [(i - 0.5) / rate, (i + 0.5) / rate). Right on average, but frame i
            hears half a frame plus half a window of what follows it: 0.171 s with the defaults.
            "past": those whose last sample lies in ((i - 1) / rate, i / rate]. Nothing after i / rate is heard, as a
            causal model needs; at a clip's start the past is silence, so frame 0 is near the floor.
            The property `look_ahead_seconds` tells the bound for the settings at hand.
        double_precision: False computes spectra in float32, about twice as fast. Bands some 60 dB below a
            spectrum's loudest are then off, by up to 0.2 dB on real recordings, by more beside a pure tone.

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
    padding_value, padding_side = 0.0, "right"  # by which transformers' pipelines make batches of clips

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
                hint = f"did you mean {near[0]!r}? It takes" if near else "it takes"
                raise ValueError(f"AudioFeatureExtractor has no setting {name!r}; {hint} {', '.join(settings)}")
        hub.pop("feature_extractor_type", None)
        super().__init__(**settings, **hub)
        self._check_settings()

    def _check_settings(self) -> None:
        for name in ("sampling_rate", "n_fft", "hop_length", "num_mel_bins", "num_mfcc"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} = {value!r}: give a whole number above 0")
        for name in ("min_frequency", "max_frequency", "frame_rate"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number and (value is not None or name == "min_frequency"):
                raise ValueError(f"{name} = {value!r}: give a number of Hz")
        for name, choices in (
            ("feature_type", FEATURE_TYPES),
            ("mel_scale", MEL_SCALES),
            ("mel_norm", MEL_NORMS),
            ("pooling", POOLINGS),
            ("double_precision", (True, False)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} = {getattr(self, name)!r}: give one of {', '.join(map(repr, choices))}")
        if self.n_fft > LONGEST_WINDOW:
            raise ValueError(f"n_fft = {self.n_fft}: give at most {LONGEST_WINDOW} samples")
        if self.num_mel_bins > self.n_fft // 2 + 1:
            raise ValueError(
                f"num_mel_bins = {self.num_mel_bins}: n_fft = {self.n_fft} has {self.n_fft // 2 + 1} frequencies, and "
                "each band needs one; lower num_mel_bins or raise n_fft"
            )
        if self.n_fft % 2:
            raise ValueError(f"n_fft = {self.n_fft}: give an even number, so that a window has a middle")
        if self.hop_length > self.n_fft:
            raise ValueError(f"hop_length = {self.hop_length}: give at most n_fft = {self.n_fft}, to hear all samples")
        if self.feature_type == "mfcc" and self.num_mfcc > self.num_mel_bins:
            raise ValueError(f"num_mfcc = {self.num_mfcc}: give at most num_mel_bins = {self.num_mel_bins}")
        if not 0 <= self.min_frequency < self._top_frequency <= self.sampling_rate / 2:
            raise ValueError(
                f"min_frequency = {self.min_frequency}, max_frequency = {self.max_frequency}: give "
                f"0 <= min < max <= {self.sampling_rate / 2} Hz, half the sampling rate"
            )
        most = self.sampling_rate / self.hop_length / (2 if self.pooling == "centered" else 1)
        if self.frame_rate is not None and not 0 < self.frame_rate <= most:
            raise ValueError(
                f"frame_rate = {self.frame_rate}: give above 0 and at most {most:.3f} Hz, so that each frame has a "
                f"spectrum, or lower hop_length = {self.hop_length}"
            )
        silent = int((self._mel_filters().sum(0) == 0).sum())
        if silent:
            raise ValueError(
                f"num_mel_bins = {self.num_mel_bins}: {silent} bands hold no frequency of n_fft = {self.n_fft} and "
                "would always be silent; lower num_mel_bins or raise n_fft"
            )

    @property
    def feature_size(self) -> int:
        """Features a frame (F): the model's input size."""
        return self.num_mfcc if self.feature_type == "mfcc" else self.num_mel_bins

    @property
    def feature_names(self) -> list[str]:
        """What each feature is, lowest first: the peak of its mel band, or its coefficient."""
        if self.feature_type == "mfcc":
            return [f"MFCC {number}" for number in range(self.num_mfcc)]
        peaks = np.asarray(self._mel_filters()).argmax(0)  # (M,) of the spectrum's frequencies
        return [f"{peak * self.sampling_rate / self.n_fft:.0f} Hz" for peak in peaks]

    @property
    def look_ahead_seconds(self) -> float:
        """Frame i depends on no sample later than i / frame_rate plus this many seconds; 0 for "past"."""
        if self.pooling == "past":
            return 0.0
        half_frame = 0.0 if self.frame_rate is None else 0.5 / self.frame_rate
        return half_frame + (self.n_fft // 2 - 1) / self.sampling_rate

    def num_frames(self, num_samples: int) -> int:
        """Frames (T) of a clip of so many samples."""
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
        """Features of one clip (samples,), of clips of one length (B, S), or of a list of clips (samples,).

        Samples are floats, 1.0 at full scale; `sampling_rate` (Hz) must be given and be the extractor's own.
        Returns `input_features` (B, T, F) float32, 0 beyond a clip's end, and `attention_mask` (B, T) int64, as torch
        tensors on `device` (default: where the audio is) or, for "np", as arrays. Spectra are made block by block, so
        memory is the batch's samples in float32, its features before pooling twice, and about 10 MB (under 1 GB on a
        GPU), however long the clips are.
        """
        self._check_rate(sampling_rate)
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors = {return_tensors!r}: give 'pt' or 'np'")
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
        """The features of one long clip that comes in blocks (samples,) of any length: pieces (1, t, F), t >= 1.

        Together they are what the whole clip gives, but memory is some blocks', however long the clip is.
        """
        self._check_rate(sampling_rate)
        sound = torch.zeros(self._zeros_before)  # what windows to come still need
        spectra = torch.zeros(1, 0, self.num_mel_bins)  # what frames to come still need
        samples, first_spectrum, frames = 0, 0, 0  # that came, that is held, that are out
        for block in itertools.chain(blocks, (None,)):
            if block is None:
                if not samples:
                    raise ValueError("no block held a sample; give at least one")
                sound = torch.cat([sound, torch.zeros(self.n_fft - self._zeros_before)])
            elif len(block):
                clip = _to_clip(block, place=0)
                if not clip.sum().isfinite() and not clip.isfinite().all():  # a sum is the cheapest look at all
                    raise ValueError(f"samples {samples} to {samples + len(clip)} hold NaN or infinity; leave it out")
                sound, samples = torch.cat([sound, clip]), samples + len(clip)
            hops = (len(sound) - self.n_fft) // self.hop_length + 1
            if hops > 0:
                whole = (hops - 1) * self.hop_length + self.n_fft
                spectra = torch.cat([spectra, self._log_mel(sound[None, :whole])], 1)
                sound = sound[hops * self.hop_length :]
            known = first_spectrum + spectra.shape[1]
            if self.frame_rate is None:
                first = np.arange(frames, known + 1)
            else:
                first = self._first_hops(frames, self.num_frames(samples) if samples else 0)
                if block is not None:  # frames whose spectra are all there
                    first = first[: 1 + np.count_nonzero(first[1:] <= known)]
            if len(first) > 1:
                inside = torch.from_numpy(first - first_spectrum)
                counts = torch.tensor([spectra.shape[1]])
                yield self._coefficients(spectra if self.frame_rate is None else _means(spectra, inside, counts))
                frames += len(first) - 1
                spectra = spectra[:, first[-1] - first_spectrum :]
                first_spectrum = first[-1]

    def _check_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate != self.sampling_rate:
            came = "no sampling_rate came" if sampling_rate is None else f"sampling_rate = {sampling_rate} Hz"
            raise ValueError(f"{came}; this extractor takes {self.sampling_rate} Hz: resample the audio, then say so")

    def _coefficients(self, features: torch.Tensor) -> torch.Tensor:
        """dB (B, T, M) as what was asked for, (B, T, F)."""
        if self.feature_type != "mfcc":
            return features
        dct = _dct_matrix(self.num_mel_bins, self.num_mfcc).to(features.device)
        return (features.double() @ dct).float()

    @property
    def _zeros_before(self) -> int:
        """Samples of silence before a clip: at k * hop is window k's middle ("centered") or last sample ("past")."""
        return self.n_fft // 2 if self.pooling == "centered" else self.n_fft - 1

    @property
    def _top_frequency(self) -> float:
        return self.sampling_rate / 2 if self.max_frequency is None else self.max_frequency

    @property
    def _exact_frame_rate(self) -> Fraction:
        # 0.1 and 1/3 Hz are meant as such: floats would lose a frame whenever s * rate is a whole number
        return Fraction(self.frame_rate).limit_denominator(1_000_000)

    def _mel_filters(self) -> torch.Tensor:
        return _mel_filters(
            self.sampling_rate, self.n_fft, self.num_mel_bins, self.min_frequency, self._top_frequency,
            self.mel_scale, self.mel_norm,
        )  # fmt: skip

    def _pad(self, clips: list[torch.Tensor]) -> torch.Tensor:
        """(B, S + N): clips amid zeros."""
        before = self._zeros_before
        padded = clips[0].new_zeros(len(clips), max(map(len, clips)) + self.n_fft)
        for place, clip in enumerate(clips):
            padded[place, before : before + len(clip)] = clip
        for place in (~padded.sum(1).isfinite()).nonzero().flatten().tolist():  # cheaper than a look at each
            bad = int((~torch.isfinite(clips[place])).sum())
            if bad:
                samples = len(clips[place])
                raise ValueError(f"clip {place}: {bad} of {samples} samples are NaN or infinite; leave it out")
        return padded

    def _log_mel(self, padded: torch.Tensor) -> torch.Tensor:
        """Padded sound (B, S + N) to dB (B, K, M), a block of windows at a time: all clips, as many hops as fit."""
        precision = torch.float64 if self.double_precision else torch.float32
        window = torch.hann_window(self.n_fft, dtype=torch.float64).to(padded.device, precision)
        # real and imaginary parts lie side by side, so each weight comes twice: one product sums squares and bands
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
        """Means (B, T, M) over the spectra (B, K, M) of each frame; a clip's own spectra only."""
        first = torch.from_numpy(self._first_hops(0, max(map(self.num_frames, samples)))).to(features.device)
        return _means(features, first, torch.tensor(samples, device=features.device) // self.hop_length + 1)

    def _first_hops(self, start: int, stop: int) -> np.ndarray:
        """The first spectrum of frames start to stop and of the one after them, (stop - start + 1,): exactly."""
        rate = self._exact_frame_rate
        up, down = self.sampling_rate * rate.denominator, self.hop_length * rate.numerator  # up / down hops a frame
        i = np.arange(start, stop + 1, dtype=np.int64)
        if self.pooling == "centered":
            first = -((1 - 2 * i) * up // (2 * down))  # the least k with k * down >= (i - 1/2) * up
        else:
            first = (i - 1) * up // down + 1  # the least k with k * down > (i - 1) * up
        return first.clip(min=0)


def _means(spectra: torch.Tensor, first: torch.Tensor, hops: torch.Tensor) -> torch.Tensor:
    """Means (B, T, M) over the spectra (B, K, M) from first[i] to before first[i + 1]; clip b has hops[b] of them."""
    counts = (first[1:].minimum(hops[:, None]) - first[:-1]).clamp(min=0)  # (B, T)
    steps = torch.arange(int((first[1:] - first[:-1]).max()), device=spectra.device)
    index = (first[:-1, None] + steps).clamp(max=spectra.shape[1] - 1)  # (T, steps)
    inside = steps < counts[..., None]  # (B, T, steps)
    total = spectra[:, index].mul_(inside[..., None]).sum(2)
    return total / counts.clamp(min=1)[..., None]


def _to_clips(audio: np.ndarray | torch.Tensor | list) -> list[torch.Tensor]:
    """Clips (samples,) in float32, all of them mono floats with at least one sample."""
    if isinstance(audio, np.ndarray | torch.Tensor):
        if audio.ndim > 2 or (audio.ndim == 2 and audio.shape[1] <= CHANNELS < audio.shape[0]):
            raise ValueError(
                f"audio of shape {tuple(audio.shape)} looks like (samples, channels); give one mono clip (samples,), "
                "a batch (clips, samples) or a list of clips: average the channels first"
            )
        clips = [audio] if audio.ndim < 2 else list(audio)
    elif isinstance(audio, list | tuple):
        clips = [np.asarray(audio)] if audio and np.isscalar(audio[0]) else list(audio)
    else:
        raise ValueError(f"audio came as {type(audio).__name__}; give an array, a tensor or a list of them")
    if not clips:
        raise ValueError("audio holds no clip; give at least one")
    return [_to_clip(clip, place) for place, clip in enumerate(clips)]


def _to_clip(clip: np.ndarray | torch.Tensor | list, place: int) -> torch.Tensor:
    try:
        tensor = clip if isinstance(clip, torch.Tensor) else torch.from_numpy(np.require(clip, requirements="CW"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"clip {place}: is no array of numbers ({error}); give float samples (samples,)") from None
    if tensor.ndim != 1:
        raise ValueError(
            f"clip {place}: has shape {tuple(tensor.shape)}; give one mono clip (samples,): average the channels first"
        )
    if not tensor.is_floating_point():
        raise ValueError(
            f"clip {place}: samples are {tensor.dtype}; give floats with 1.0 at full scale (int16: divide by 32768)"
        )
    if not len(tensor):
        raise ValueError(f"clip {place}: is empty (0 samples); leave it out")
    return tensor.float()


# Made once per process and settings, and kept out of the extractor: it would change its fingerprint for `Dataset.map`.


@lru_cache(maxsize=16)
def _mel_filters(
    sampling_rate: int, n_fft: int, bands: int, low: float, high: float, scale: str, norm: str | None
) -> torch.Tensor:
    filters = mel_filter_bank(n_fft // 2 + 1, bands, low, high, sampling_rate, norm=norm, mel_scale=scale)
    return torch.from_numpy(filters).float()  # (N // 2 + 1, M)


@lru_cache(maxsize=16)
def _dct_matrix(bands: int, coefficients: int) -> torch.Tensor:
    """Orthonormal DCT-II (M, coefficients) in double precision: sums of M values near -100 lose 1e-4 in float32."""
    angles = np.pi / bands * np.outer(np.arange(bands) + 0.5, np.arange(coefficients))
    matrix = np.cos(angles) * np.sqrt(2.0 / bands)
    matrix[:, 0] /= np.sqrt(2.0)
    return torch.from_numpy(matrix)
