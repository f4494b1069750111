"""Electrodermal activity (skin conductance): a recording in microsiemens -> target channels on the frame grid.

    quality rules -> short gaps filled -> low-pass -> frame grid -> log -> detrend, tonic / phasic -> target channels

Frame i of the output is at i / frame_rate s after the first sample. All values are finite. Invalid values are masked.
An unusable trial is rejected with a reason, and its mask is all False.

Non-causal settings (the default) filter forward and backward, so nothing is delayed, but each value depends on the
whole trial. Causal settings never look ahead: gaps hold their last value, filters run forward, frames take the last
sample, the median trails. A causal target is therefore delayed; the notes say by how much. The mask and the rejection
look at the whole trial in either case. They decide what is scored, never what is computed.

The settings are in media/eda_settings.py. Normalization is fitted over trials, in media/scaling.py.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import signal

from media import filters, scaling
from media.eda_settings import EdaSettings

SLOPE_SECONDS = 0.25  # slopes are measured over this time at any rate: 1 sampling interval of an E4, 12 of a Biopac
LEVEL_DECIMALS = 5  # values closer than 0.00001 uS are one level, so float32 storage adds no levels
FLAT_PERCENTILES = (1, 99)  # a trial's range excludes the extremes: a start-up jump must not hide a dead electrode
NYQUIST_SHARE = 0.9  # highest cut-off of a low-pass, as a share of Nyquist
HIGH_PASS_ORDER = 2


@dataclass(frozen=True)
class ProcessedEda:
    """A trial on the frame grid: `values` (frames, channels) float64 and finite, `mask` (frames,) True if valid.

    `rejected` is the reason why a trial is unusable (then values are 0 and the mask False), else None. The last note
    gives the figures. `rate` is the frame rate in Hz.
    """

    values: np.ndarray
    mask: np.ndarray
    channels: tuple[str, ...]
    rate: float
    rejected: str | None
    notes: tuple[str, ...]


class _Rejected(Exception):
    """An unusable trial; holds the name of the reason and the figures."""


def process_eda(
    eda: np.ndarray, rate: float, settings: EdaSettings, temperature: np.ndarray | None = None
) -> ProcessedEda:
    """Convert one trial's conductance (samples,) in uS at `rate` Hz to target channels on the frame grid.

    `temperature` (degrees C) starts with the EDA and has the same rate. Where it is missing or ends early, nothing is
    masked. Reasons for rejection: too_short, all_invalid, not_microsiemens, negative, mostly_invalid, flat,
    few_levels, log_domain, and with normalisation_scope trial also flat_<channel>.
    """
    eda = np.asarray(eda, dtype=np.float64)
    if eda.ndim != 1:
        raise ValueError(f"eda.shape={eda.shape}: must be (samples,). Give one trial.")
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"rate={rate}: must be above 0. Give the recording's samples per second.")
    notes: list[str] = []
    try:
        values, mask = _process(eda, rate, settings, temperature, notes)
        rejected = None
    except _Rejected as rejection:
        rejected, figures = rejection.args
        notes.append(f"rejected, {rejected}: {figures}")
        frames = filters.count_frames(len(eda), rate, settings.frame_rate)
        values, mask = np.zeros((frames, len(settings.channels))), np.zeros(frames, dtype=bool)
    return ProcessedEda(values, mask, settings.channels, settings.frame_rate, rejected, tuple(notes))


def _process(
    eda: np.ndarray, rate: float, settings: EdaSettings, temperature: np.ndarray | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Run all steps in order. Raise _Rejected; add to `notes` anything that a reader of the run should know."""
    _check_recording(eda, rate, settings)
    impossible = _find_impossible(eda, settings, notes)
    invalid = impossible | _find_artefacts(eda, impossible, rate, settings, temperature, notes)
    if invalid.all():
        raise _Rejected("all_invalid", f"none of {len(eda)} samples passes the quality rules")
    valid = ~_long_gaps(invalid, settings.max_gap_seconds * rate)
    # Causal settings keep the values near artifacts, because these are recognized only afterwards. They are masked.
    x = _hold(eda, impossible) if settings.causal else _interpolate(eda, invalid)

    x = _to_grid(x, rate, settings, notes)
    mask = filters.frames_within(valid, rate, settings.frame_rate, settings.causal)
    lag = round(settings.lag_seconds * settings.frame_rate)  # frames
    unused = lag + math.ceil(settings.discard_seconds * settings.frame_rate - filters.EPSILON)
    mask[:unused] = False
    _check_frames(x, mask, unused, eda[~invalid], settings)

    if settings.log_offset_us is not None:
        x = _log(x, mask, settings.log_offset_us)
    if settings.detrend != "none":
        x = _detrend(x, mask, settings.detrend)
    values, mask = _target_channels(x, mask, settings)
    if lag:
        values = np.concatenate([values[lag:], np.repeat(values[-1:], lag, axis=0)])
        mask = np.concatenate([mask[lag:], np.zeros(lag, dtype=bool)])
        notes.append(f"frame t has the conductance of t + {settings.lag_seconds:g} s (lag_seconds)")
    _check_channels(values, mask, settings)
    return values, mask


# Quality


def _check_recording(eda: np.ndarray, rate: float, settings: EdaSettings) -> None:
    """Reject a recording that is unusable as a whole."""
    seconds = len(eda) / rate
    if seconds < settings.min_seconds or not len(eda):
        raise _Rejected("too_short", f"{len(eda)} samples, {seconds:.2f} s; min_seconds is {settings.min_seconds:g}")
    finite = eda[np.isfinite(eda)]
    if not len(finite):
        raise _Rejected("all_invalid", f"none of {len(eda)} samples is finite")
    median = float(np.median(finite))
    if median > settings.max_us:
        if (finite == np.round(finite)).all():
            cause = "integers look like ADC counts: convert them with the recorder's transfer function, "
            cause += "uS = counts / 2**bits * supply volts / (volts per uS), before building the data set"
        else:
            cause = "the unit may be nS or kOhm: convert to uS before building the data set"
        raise _Rejected("not_microsiemens", f"median {median:g} is above max_us={settings.max_us:g}; {cause}")
    if settings.negative == "reject" and finite.min() < 0:
        raise _Rejected("negative", f"lowest sample {finite.min():.3g} uS; negative is 'reject'")


def _find_impossible(eda: np.ndarray, settings: EdaSettings, notes: list[str]) -> np.ndarray:
    """Find samples that are not finite or no conductance. They are never used, not even for filling gaps."""
    finite = np.isfinite(eda)
    low, high = finite & (eda < settings.min_us), finite & (eda > settings.max_us)
    below_zero = finite & (eda < 0) & ~low
    if below_zero.any():
        treatment = "kept as the recorder's offset" if settings.negative == "keep" else "masked"
        share = below_zero.mean()
        notes.append(f"{share:.1%} of samples below 0 uS, lowest {eda[below_zero].min():.3g} uS: {treatment}")
    impossible = ~finite | low | high
    if settings.negative == "mask":
        impossible |= below_zero
    for bad, problem in (
        (~finite, "are not finite"),
        (low, f"are below min_us={settings.min_us:g}"),
        (high, f"are above max_us={settings.max_us:g}"),
    ):
        if bad.any():
            notes.append(f"{bad.mean():.1%} of samples {problem}")
    return impossible


def _find_artefacts(
    eda: np.ndarray,
    impossible: np.ndarray,
    rate: float,
    settings: EdaSettings,
    temperature: np.ndarray | None,
    notes: list[str],
) -> np.ndarray:
    """Find samples within spread_seconds of a value out of range, a slope too steep, or an unworn sensor."""
    # A missing sample is a gap, not an artifact: its neighbors are valid.
    if impossible.all():
        return impossible
    step = max(1, round(SLOPE_SECONDS * rate))
    x = _interpolate(eda, impossible)
    steep = np.zeros(len(eda), dtype=bool)
    steep[step:] = np.abs(x[step:] - x[:-step]) * rate / step > settings.max_slope_us
    steep = _spread(steep, before=step, after=0)
    unworn = np.zeros(len(eda), dtype=bool)
    if temperature is not None:
        measured = np.asarray(temperature, dtype=np.float64)[: len(eda)]
        unworn[: len(measured)] = (measured < settings.min_temperature) | (measured > settings.max_temperature)
    slope = f"are on slopes above {settings.max_slope_us:g} uS/s"
    for bad, problem in ((steep, slope), (unworn, "lack skin contact")):
        if bad.any():
            notes.append(f"{bad.mean():.1%} of samples {problem}")
    reach = round(settings.spread_seconds * rate)
    return _spread(steep | unworn | (impossible & np.isfinite(eda)), before=reach, after=reach)


def _spread(flags: np.ndarray, before: int, after: int) -> np.ndarray:
    """Extend each flagged run by `before` and `after` samples."""
    if not flags.any():
        return flags
    counts = np.concatenate([[0], np.cumsum(flags)])
    at = np.arange(len(flags))
    return counts[np.minimum(at + before + 1, len(flags))] > counts[np.maximum(at - after, 0)]


def _long_gaps(invalid: np.ndarray, longest: float) -> np.ndarray:
    """Find invalid runs of over `longest` samples, or at an end, where interpolation has only one side."""
    edges = np.flatnonzero(np.diff(invalid, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    stays = (ends - starts > longest) | (starts == 0) | (ends == len(invalid))
    gaps = invalid.copy()
    gaps[invalid] = np.repeat(stays, ends - starts)
    return gaps


def _interpolate(x: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Interpolate missing samples linearly; at the ends repeat the nearest sample."""
    if not missing.any():
        return x
    at = np.arange(len(x))
    return np.interp(at, at[~missing], x[~missing])


def _hold(x: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Hold the last sample over missing ones. Before the first sample, which is masked, use the first."""
    last = np.maximum.accumulate(np.where(missing, 0, np.arange(len(x))))
    return x[np.maximum(last, np.argmin(missing))]


def _check_frames(x: np.ndarray, mask: np.ndarray, unused: int, samples: np.ndarray, settings: EdaSettings) -> None:
    """Reject a trial with too few valid frames, or with nothing in them but the recorder's quantization steps."""
    if unused >= len(mask):
        raise _Rejected("too_short", f"{len(mask)} frames; discard_seconds and lag_seconds remove {unused}")
    if not mask.any():
        raise _Rejected("all_invalid", f"none of {len(mask)} frames passes the quality rules")
    invalid = 1 - mask[unused:].mean()
    if invalid > settings.max_invalid_fraction:
        allowed = settings.max_invalid_fraction
        raise _Rejected("mostly_invalid", f"{invalid:.1%} of frames are invalid; max_invalid_fraction is {allowed:g}")
    low, high = np.percentile(x[mask], FLAT_PERCENTILES)
    if high - low < settings.min_range_us:
        raise _Rejected("flat", f"range {high - low:.3g} uS; min_range_us is {settings.min_range_us:g}")
    levels = len(np.unique(np.round(samples, LEVEL_DECIMALS)))
    if levels < settings.min_levels:
        raise _Rejected("few_levels", f"{levels} different values; min_levels is {settings.min_levels}")


def _check_channels(values: np.ndarray, mask: np.ndarray, settings: EdaSettings) -> None:
    """Reject a trial whose own statistics would amplify noise, or that has no valid frame left."""
    if not mask.any():
        raise _Rejected("all_invalid", f"none of {len(mask)} frames is valid for eda_target '{settings.eda_target}'")
    if settings.normalisation == "none" or settings.normalisation_scope != "trial":
        return
    _, spreads = scaling.statistics(values, mask, settings.normalisation)
    for name, spread in zip(settings.channels, spreads, strict=True):
        if spread < scaling.MIN_SPREAD:
            figures = f"{settings.normalisation} spread {spread:.3g} {settings.unit} is below {scaling.MIN_SPREAD:g}"
            raise _Rejected(f"flat_{name}", f"{figures}; scaling by trial would amplify noise")


# Signal


def _to_grid(x: np.ndarray, rate: float, settings: EdaSettings, notes: list[str]) -> np.ndarray:
    """Low-pass and resample to the frame rate."""
    frame_rate, order, requested = settings.frame_rate, settings.low_pass_order, settings.low_pass_hz
    if rate < frame_rate * (1 - filters.EPSILON):
        notes.append(f"{rate:g} Hz upsampled to {frame_rate:g} Hz: nothing above {rate / 2:g} Hz was recorded")
    # Polyphase resampling has its own anti-aliasing filter, but looks ahead. Causal sampling needs a filter here.
    slowest = min(rate, frame_rate) if settings.causal else rate
    highest = NYQUIST_SHARE * slowest / 2
    cutoff = requested
    if requested is not None and requested > highest:
        cutoff = highest
        notes.append(f"low-pass clamped from {requested:g} Hz to {cutoff:g} Hz: Nyquist of {slowest:g} Hz")
    elif requested is None and settings.causal and rate > frame_rate:
        cutoff = highest
        notes.append(f"causal low-pass of {cutoff:g} Hz against aliasing at {frame_rate:g} Hz")
    if cutoff is not None:
        x = filters.low_pass(x, rate, cutoff, order, settings.causal)
    if not settings.causal:
        return filters.resample(x, rate, frame_rate)
    if cutoff is not None:
        notes.append(f"causal low-pass delays the target by {filters.butterworth_delay(cutoff, order):.2f} s")
    return filters.sample_and_hold(x, rate, frame_rate)


def _log(x: np.ndarray, mask: np.ndarray, offset: float) -> np.ndarray:
    """Return ln(1 + offset + x). Masked frames are clipped from below, because they may be outside the domain."""
    lowest = x[mask].min()
    if 1 + offset + lowest <= 0:
        figures = f"lowest value {lowest:.3g} uS; the logarithm is undefined with log_offset_us={offset:g}"
        raise _Rejected("log_domain", f"{figures}: raise log_offset_us above {-lowest - 1:.3g}")
    return np.log1p(np.maximum(x, lowest) + offset)


def _detrend(x: np.ndarray, mask: np.ndarray, method: str) -> np.ndarray:
    """Subtract the mean or the regression line of the valid frames from all frames."""
    if method == "mean" or mask.sum() == 1:
        return x - x[mask].mean()
    at = np.arange(len(x)) - np.flatnonzero(mask).mean()
    slope = at[mask] @ (x[mask] - x[mask].mean()) / (at[mask] @ at[mask])
    return x - x[mask].mean() - slope * at


def _target_channels(x: np.ndarray, mask: np.ndarray, settings: EdaSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return the target (frames, channels) and its mask, from the conductance on the grid."""
    if settings.eda_target == "raw":
        return x[:, None], mask
    if settings.eda_target == "difference":
        # The first frame has no predecessor. It is 0 and masked.
        change = np.diff(x, prepend=x[:1]) * settings.frame_rate
        return change[:, None], mask & np.concatenate([[False], mask[:-1]])
    tonic, phasic = decompose(x, settings)
    if settings.eda_target == "scr_rate":
        return _response_rate(phasic, mask, settings)[:, None], mask
    return np.stack([{"tonic": tonic, "phasic": phasic}[name] for name in settings.channels], axis=1), mask


def decompose(x: np.ndarray, settings: EdaSettings) -> tuple[np.ndarray, np.ndarray]:
    """Split conductance on the frame grid into tonic and phasic (frames,).

    highpass: phasic is the output of a Butterworth high-pass. smoothmedian: tonic is a running median. In both cases
    tonic + phasic is the input. cvxeda: a convex fit of responses on a spline (Greco et al. 2015), whose residual is
    in neither.
    """
    if settings.decomposition == "highpass":
        phasic = filters.high_pass(x, settings.frame_rate, settings.high_pass_hz, HIGH_PASS_ORDER, settings.causal)
        return x - phasic, phasic
    if settings.decomposition == "smoothmedian":
        size = 2 * round(settings.median_seconds * settings.frame_rate / 2) + 1
        tonic = filters.running_median(x, size, settings.causal)
        return tonic, x - tonic
    try:
        from cvxeda import cvxEDA
    except ImportError as error:
        raise ImportError("decomposition='cvxeda': cvxeda is not installed. Run pip install -e '.[eda]'.") from error
    mean, deviation = x.mean(), x.std()
    if deviation < scaling.MIN_SPREAD:  # cvxEDA needs z-scores, which a constant does not have
        return x, np.zeros_like(x)
    phasic, _, tonic, *_ = cvxEDA(
        (x - mean) / deviation, 1 / settings.frame_rate, options={"show_progress": False, "reltol": 1e-9}
    )
    return np.asarray(tonic) * deviation + mean, np.asarray(phasic) * deviation


def _response_rate(phasic: np.ndarray, mask: np.ndarray, settings: EdaSettings) -> np.ndarray:
    """Count skin conductance responses per minute: peaks that rise by scr_min_us, in a window around each frame.

    The window excludes masked frames and ends with the trial. The rate is per minute of the remaining frames.
    """
    peaks, _ = signal.find_peaks(phasic, prominence=settings.scr_min_us)
    counts = np.zeros(len(phasic))
    counts[peaks[mask[peaks]]] = 1
    half = round(settings.scr_window_seconds * settings.frame_rate / 2)
    at = np.arange(len(phasic))
    first, stop = np.maximum(at - half, 0), np.minimum(at + half + 1, len(phasic))
    responses, frames = (np.concatenate([[0], np.cumsum(row)]) for row in (counts, mask))
    seconds = np.maximum(frames[stop] - frames[first], 1) / settings.frame_rate
    return (responses[stop] - responses[first]) / seconds * 60
