"""Filtering and resampling of slow signals such as skin conductance, zero-phase or causal.

Zero-phase functions run forwards and backwards: nothing is delayed, but every output has seen the future. Causal ones
run forwards only, from the steady state of their first sample: an output depends on its past and on nothing else, and
comes late by `butterworth_delay`. All take and give one float64 vector; rates and cut-offs are in Hz.
"""

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from scipy import interpolate, ndimage, signal

MAX_FACTOR = 1000  # largest up- and down-sampling factor where rates allow; one that needs more is first put nearby
HALF_ZEROS = 12  # zero crossings on each side of the resampling kernel
KAISER_BETA = 8.0  # stop band about -80 dB, pass band flat to about 0.01 %
EPSILON = 1e-6  # of a sample: forgives the rounding of i * rate / frame_rate, no more


def count_frames(samples: int, rate: float, frame_rate: float) -> int:
    """Frames whose times i / frame_rate lie within the samples' times 0 .. (samples - 1) / rate; 0 for no samples."""
    if samples == 0:
        return 0
    return math.floor((samples - 1) / rate * frame_rate + EPSILON) + 1


def low_pass(x: np.ndarray, rate: float, cutoff: float, order: int, causal: bool) -> np.ndarray:
    """Butterworth low-pass. Zero-phase squares its gain: half, not 0.71, is left at the cut-off."""
    return _butterworth_filter(x, rate, cutoff, order, "lowpass", causal)


def high_pass(x: np.ndarray, rate: float, cutoff: float, order: int, causal: bool) -> np.ndarray:
    """Butterworth high-pass; a constant gives 0 from the first sample on."""
    return _butterworth_filter(x, rate, cutoff, order, "highpass", causal)


def butterworth_delay(cutoff: float, order: int) -> float:
    """Seconds by which a causal Butterworth low-pass delays what is slow beside its cut-off."""
    return 1 / (2 * math.pi * cutoff * math.sin(math.pi / (2 * order)))


def running_median(x: np.ndarray, size: int, causal: bool) -> np.ndarray:
    """Median of `size` samples (odd) around each, or up to and including each; the ends repeat the edge sample."""
    origin = size // 2 if causal else 0
    return ndimage.median_filter(x, size=size, mode="nearest", origin=origin)


def resample(x: np.ndarray, rate: float, frame_rate: float) -> np.ndarray:
    """Polyphase resampling from `rate` to `frame_rate`: zero-phase, sample 0 stays at time 0, ends follow a line.

    A measured rate is seldom round (49.999 Hz). It is taken for the nearest ratio of small numbers when that moves no
    frame by more than half a sample or a hundredth of a frame; otherwise a spline puts the samples on that ratio.
    """
    frames = count_frames(len(x), rate, frame_rate)
    ratio = Fraction(frame_rate / rate).limit_denominator(max(MAX_FACTOR, math.ceil(rate / frame_rate)))
    up, down = ratio.numerator, ratio.denominator
    near_rate = frame_rate * down / up
    drift = abs(near_rate / rate - 1) * (len(x) - 1)  # samples, at the end
    if drift > min(0.5, 0.01 * rate / frame_rate):
        times = np.arange(math.floor((len(x) - 1) / rate * near_rate) + 1) / near_rate
        x = interpolate.make_interp_spline(np.arange(len(x)) / rate, x, k=min(3, len(x) - 1))(times)
    if up == down:
        return x[:frames]
    # A whole number of frames, mirrored through each end point, keeps the slope there: no ringing at the edges.
    margin = math.ceil(HALF_ZEROS * max(up, down) / (up * down))
    x = np.pad(x, margin * down, mode="reflect", reflect_type="odd")
    resampled = signal.resample_poly(x, up, down, window=_resampling_kernel(up, down), padtype="line")
    return resampled[margin * up : margin * up + frames]


def sample_and_hold(x: np.ndarray, rate: float, frame_rate: float) -> np.ndarray:
    """The last sample at or before each frame's time: resampling that looks at no future sample."""
    positions = np.arange(count_frames(len(x), rate, frame_rate)) * rate / frame_rate
    return x[np.floor(positions + EPSILON).astype(int)]


def frames_within(valid: np.ndarray, rate: float, frame_rate: float, causal: bool) -> np.ndarray:
    """Which frames rest on valid samples alone: all of frame i's interval, and the samples next to its time.

    The interval is [(i - 0.5) / frame_rate, (i + 0.5) / frame_rate), or ((i - 1) / frame_rate, i / frame_rate] when
    causal, cut at the ends of the recording.
    """
    width = rate / frame_rate  # samples a frame
    at = np.arange(count_frames(len(valid), rate, frame_rate)) * width
    before = np.floor(at + EPSILON)
    if causal:
        first, stop = np.floor(at - width + EPSILON) + 1, before + 1
    else:
        first, stop = np.ceil(at - width / 2 - EPSILON), np.ceil(at + width / 2 - EPSILON)
        stop = np.maximum(stop, np.ceil(at - EPSILON) + 1)
    first = np.clip(np.minimum(first, before), 0, len(valid)).astype(int)
    stop = np.clip(stop, 0, len(valid)).astype(int)
    invalid_before = np.concatenate([[0], np.cumsum(~valid)])
    return invalid_before[stop] == invalid_before[first]


def _butterworth_filter(x: np.ndarray, rate: float, cutoff: float, order: int, kind: str, causal: bool) -> np.ndarray:
    sections, steady_state = _butterworth(rate, cutoff, order, kind)
    if causal:
        return signal.sosfilt(sections, x, zi=steady_state * x[0])[0]
    # One period of the cut-off mirrored about each end lets the start-up die outside the recording.
    padding = min(len(x) - 1, math.ceil(rate / cutoff))
    return signal.sosfiltfilt(sections, x, padlen=padding)


@lru_cache(maxsize=64)
def _butterworth(rate: float, cutoff: float, order: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    sections = signal.butter(order, cutoff, kind, fs=rate, output="sos")
    return sections, signal.sosfilt_zi(sections)


@lru_cache(maxsize=64)
def _resampling_kernel(up: int, down: int) -> np.ndarray:
    widest = max(up, down)
    return signal.firwin(2 * HALF_ZEROS * widest + 1, 1 / widest, window=("kaiser", KAISER_BETA))
