"""Filtering and resampling of slow signals such as skin conductance, zero-phase or causal.

Zero-phase functions run forward and backward: nothing is delayed, but each output depends on the future. Causal ones
run forward only, starting in the steady state of the first sample: each output depends only on the past, and is
delayed by `butterworth_delay`. All map one float64 vector to another; rates and cut-offs are in Hz.
"""

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from scipy import interpolate, ndimage, signal

MAX_FACTOR = 1000  # largest up- or down-sampling factor; a ratio that needs more is first rounded
HALF_ZEROS = 12  # zero crossings on each side of the resampling kernel
KAISER_BETA = 8.0  # stop band about -80 dB, pass band flat to about 0.01 %
EPSILON = 1e-6  # samples; tolerance for the rounding of i * rate / frame_rate


def count_frames(samples: int, rate: float, frame_rate: float) -> int:
    """Count the frames whose times i / frame_rate are within the samples' times 0 .. (samples - 1) / rate."""
    if samples == 0:
        return 0
    return math.floor((samples - 1) / rate * frame_rate + EPSILON) + 1


def low_pass(x: np.ndarray, rate: float, cutoff: float, order: int, causal: bool) -> np.ndarray:
    """Apply a Butterworth low-pass. Zero-phase squares the gain, so the cut-off has gain 0.5 rather than 0.71."""
    return _butterworth_filter(x, rate, cutoff, order, "lowpass", causal)


def high_pass(x: np.ndarray, rate: float, cutoff: float, order: int, causal: bool) -> np.ndarray:
    """Apply a Butterworth high-pass. A constant gives 0 from the first sample on."""
    return _butterworth_filter(x, rate, cutoff, order, "highpass", causal)


def butterworth_delay(cutoff: float, order: int) -> float:
    """Return the delay, in seconds, of a causal Butterworth low-pass at frequencies far below its cut-off."""
    return 1 / (2 * math.pi * cutoff * math.sin(math.pi / (2 * order)))


def running_median(x: np.ndarray, size: int, causal: bool) -> np.ndarray:
    """Return the median of `size` samples (odd), centered or trailing. The edge samples are repeated at the ends."""
    origin = size // 2 if causal else 0
    return ndimage.median_filter(x, size=size, mode="nearest", origin=origin)


def resample(x: np.ndarray, rate: float, frame_rate: float) -> np.ndarray:
    """Resample from `rate` to `frame_rate` with a polyphase filter: zero-phase, sample 0 stays at time 0.

    A measured rate is seldom round (49.999 Hz). It is replaced by the nearest ratio of small numbers, if that moves no
    frame by more than half a sample or a hundredth of a frame. Otherwise a spline first moves the samples to that
    ratio.
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
    # Mirror an integer number of frames through each end point. This keeps the slope there, so the edges do not ring.
    margin = math.ceil(HALF_ZEROS * max(up, down) / (up * down))
    x = np.pad(x, margin * down, mode="reflect", reflect_type="odd")
    resampled = signal.resample_poly(x, up, down, window=_resampling_kernel(up, down), padtype="line")
    return resampled[margin * up : margin * up + frames]


def sample_and_hold(x: np.ndarray, rate: float, frame_rate: float) -> np.ndarray:
    """Return the last sample at or before each frame's time: causal resampling."""
    positions = np.arange(count_frames(len(x), rate, frame_rate)) * rate / frame_rate
    return x[np.floor(positions + EPSILON).astype(int)]


def frames_within(valid: np.ndarray, rate: float, frame_rate: float, causal: bool) -> np.ndarray:
    """Return which frames depend on valid samples only: frame i's interval, and the samples next to its time.

    The interval is [(i - 0.5) / frame_rate, (i + 0.5) / frame_rate), or ((i - 1) / frame_rate, i / frame_rate] if
    causal, cut at the ends of the recording.
    """
    width = rate / frame_rate  # samples per frame
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


def _butterworth_filter(
    x: np.ndarray, rate: float, cutoff: float, order: int, filter_type: str, causal: bool
) -> np.ndarray:
    sections, steady_state = _butterworth(rate, cutoff, order, filter_type)
    if causal:
        # Start in the steady state of the first sample. Starting from 0 would give a large transient.
        return signal.sosfilt(sections, x, zi=steady_state * x[0])[0]
    # Pad by one period of the cut-off, so that the filter's start-up transient is outside the recording.
    padding = min(len(x) - 1, math.ceil(rate / cutoff))
    return signal.sosfiltfilt(sections, x, padlen=padding)


@lru_cache(maxsize=64)
def _butterworth(rate: float, cutoff: float, order: int, filter_type: str) -> tuple[np.ndarray, np.ndarray]:
    sections = signal.butter(order, cutoff, filter_type, fs=rate, output="sos")
    return sections, signal.sosfilt_zi(sections)


@lru_cache(maxsize=64)
def _resampling_kernel(up: int, down: int) -> np.ndarray:
    widest = max(up, down)
    return signal.firwin(2 * HALF_ZEROS * widest + 1, 1 / widest, window=("kaiser", KAISER_BETA))
