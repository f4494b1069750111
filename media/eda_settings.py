"""Settings for converting a skin conductance recording to a target: all options of media/biosignal.py, validated."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

ROUNDING = 1e-6  # frames; tolerance when lag_seconds must be an integer number of frames


def _setting(default: Any, description: str) -> Any:
    return field(default=default, metadata={"help": description})


@dataclass(frozen=True)
class EdaSettings:
    """How a skin conductance recording becomes a target. Flat and JSON-able. Invalid values raise ValueError."""

    frame_rate: float = _setting(4.0, "Frames per second of the target, Hz.")
    eda_target: Literal["raw", "tonic", "phasic", "both", "difference", "scr_rate"] = _setting(
        "raw",
        "Predicted signal: raw conductance, tonic, phasic, both (two channels), difference (change per second), or "
        "scr_rate (responses per minute around each frame).",
    )
    causal: bool = _setting(False, "For causal models: no step looks ahead, so targets do not contain the future.")

    # Kleckner et al. 2018 use 0.05 uS. Real recorders have offsets (PMEmo: down to -3.8 uS), so the default only
    # excludes values that cannot be conductance. Set 0.05 for their rule.
    min_us: float = _setting(-60.0, "Samples below are invalid, uS (Kleckner et al. 2018: 0.05).")
    max_us: float = _setting(60.0, "Samples above are invalid, uS. A median above it rejects the trial: wrong unit.")
    negative: Literal["keep", "mask", "reject"] = _setting(
        "keep", "Samples below 0 uS: keep (a recorder's offset, reported in the notes), mask, or reject the trial."
    )
    max_slope_us: float = _setting(10.0, "A steeper change, up or down, is an artifact, uS/s.")
    spread_seconds: float = _setting(5.0, "Time before and after an artifact that is also invalid, s.")
    min_temperature: float = _setting(30.0, "A lower skin temperature means that the sensor is not worn, degrees C.")
    max_temperature: float = _setting(40.0, "A higher skin temperature means that the sensor is not worn, degrees C.")
    # Flat PMEmo trials span 0.05 and 0.04 uS, about 30 steps of 0.0015 uS; a flat E4 spans 0.05 uS in 40 minutes.
    # A response is at least about 0.05 uS, so a trial under twice that has at most one, and mostly quantization steps.
    min_range_us: float = _setting(0.1, "A trial whose 1st to 99th percentile spans less is rejected as flat, uS.")
    min_levels: int = _setting(10, "A trial with fewer distinct values is rejected: quantization dominates it.")
    min_seconds: float = _setting(5.0, "Shorter trials are rejected, s (a response takes about this long).")
    max_invalid_fraction: float = _setting(0.5, "A trial with a larger share of invalid frames is rejected.")
    max_gap_seconds: float = _setting(2.0, "Gaps up to this long are interpolated, longer ones masked, s.")

    low_pass_hz: float | None = _setting(
        1.0, "Low-pass cut-off, Hz (0.6 PMEmo paper, 3 NeuroKit, 5 BioSPPy), or null."
    )
    low_pass_order: int = _setting(4, "Order of the Butterworth low-pass.")
    log_offset_us: float | None = _setting(None, "Take ln(1 + this + uS). null: no logarithm.")
    detrend: Literal["none", "mean", "linear"] = _setting(
        "none", "Subtract the trial's mean or regression line. Without it a model is also scored on drift."
    )
    decomposition: Literal["none", "highpass", "smoothmedian", "cvxeda"] = _setting(
        "none", "How tonic and phasic are separated. cvxeda needs the extra `eda`."
    )
    high_pass_hz: float = _setting(0.05, "Cut-off of the highpass decomposition, Hz.")
    median_seconds: float = _setting(4.0, "Window of the smoothmedian decomposition, s.")
    scr_min_us: float = _setting(0.05, "Minimum rise of a skin conductance response, uS.")
    scr_window_seconds: float = _setting(10.0, "Window around a frame in which responses are counted, s.")
    discard_seconds: float = _setting(0.0, "Mask this much at the start. Time stays aligned, s.")
    lag_seconds: float = _setting(0.0, "Frame t gets the conductance of t + this: skin reacts with a delay, s.")

    normalisation: Literal["none", "z", "minmax", "robust", "range"] = _setting(
        "z", "How targets are scaled for training."
    )
    normalisation_scope: Literal["global", "listener", "trial"] = _setting(
        "listener", "Statistics for scaling: of all trials, of the listener, or of the trial (cannot be undone to uS)."
    )

    def __post_init__(self) -> None:
        # Use the annotations. HfArgumentParser changes the `type` of the dataclass fields.
        for name, annotation in EdaSettings.__annotations__.items():
            value, choices = getattr(self, name), get_args(annotation)
            if annotation is bool or (value is None and type(None) in choices):
                continue
            if choices and float not in choices:
                if value not in choices:
                    raise ValueError(f"{name}={value!r}: unknown. Give one of {', '.join(map(str, choices))}.")
            elif not isinstance(value, int if annotation is int else int | float) or not math.isfinite(value):
                expected = "an integer" if annotation is int else "a finite number"
                raise ValueError(f"{name}={value!r}: must be {expected}. Give one.")
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        """Yield one message per problem within or between settings."""
        positive = ["frame_rate", "max_slope_us", "high_pass_hz", "median_seconds", "scr_min_us", "scr_window_seconds"]
        positive += ["low_pass_order", "low_pass_hz"]
        not_negative = ["spread_seconds", "min_range_us", "min_levels", "min_seconds", "max_gap_seconds"]
        not_negative += ["discard_seconds", "lag_seconds"]
        for name in positive:
            value = getattr(self, name)
            if value is not None and value <= 0:
                yield f"{name}={value}: must be above 0. Give a number."
        for name in not_negative:
            if getattr(self, name) < 0:
                yield f"{name}={getattr(self, name)}: must be 0 or more. Give a number."
        for low, high in (("min_us", "max_us"), ("min_temperature", "max_temperature")):
            if getattr(self, low) >= getattr(self, high):
                yield f"{low}={getattr(self, low)}: must be below {high}={getattr(self, high)}. Change one of them."
        if not 0 <= self.max_invalid_fraction <= 1:
            yield f"max_invalid_fraction={self.max_invalid_fraction}: not in [0, 1]. Give a share."
        if abs(self.lag_seconds * self.frame_rate - round(self.lag_seconds * self.frame_rate)) > ROUNDING:
            yield f"lag_seconds={self.lag_seconds}: no multiple of 1 / frame_rate. Give one for {self.frame_rate} Hz."
        if self._decomposes and self.decomposition == "none":
            target = self.eda_target
            yield f"decomposition='none': eda_target={target!r} needs one. Give highpass, smoothmedian or cvxeda."
        if self._decomposes and self.decomposition == "highpass" and self.high_pass_hz >= self.frame_rate / 2:
            yield f"high_pass_hz={self.high_pass_hz}: too high. Give less than half of frame_rate={self.frame_rate}."
        if self.causal:
            if self.detrend != "none":
                yield f"detrend={self.detrend!r}: uses the whole trial, but causal=True. Give none."
            if self.normalisation != "none" and self.normalisation_scope == "trial":
                yield "normalisation_scope='trial': uses the whole trial, but causal=True. Give global or listener."
            if self._decomposes and self.decomposition == "cvxeda":
                yield "decomposition='cvxeda': uses the whole trial, but causal=True. Give highpass or smoothmedian."
            if self.eda_target == "scr_rate":
                yield "eda_target='scr_rate': needs the peak after a response begins, but causal=True. Give another."

    @property
    def _decomposes(self) -> bool:
        return self.eda_target in ("tonic", "phasic", "both", "scr_rate")

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the target's channels, in order."""
        return ("tonic", "phasic") if self.eda_target == "both" else (self.eda_target,)

    @property
    def unit(self) -> str:
        """Unit of the processed values before normalization, as in reports and predictions."""
        if self.eda_target == "scr_rate":
            return "SCR/min"
        unit = "uS" if self.log_offset_us is None else f"ln(1 + {self.log_offset_us:g} + uS)"
        unit = f"{unit}/s" if self.eda_target == "difference" else unit
        removed = {"mean": "trial mean removed", "linear": "trial line removed"}.get(self.detrend)
        return f"{unit} ({removed})" if removed else unit
