"""How a skin conductance recording is made into a target: every option of media/biosignal.py, and which agree."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

ROUNDING = 1e-6  # frames that a whole number of them may be off


def _setting(default: Any, description: str) -> Any:
    return field(default=default, metadata={"help": description})


@dataclass(frozen=True)
class EdaSettings:
    """How a skin conductance recording becomes a target; flat and JSON-able, wrong values are ValueErrors."""

    frame_rate: float = _setting(4.0, "Frames per second of the target, Hz.")
    eda_target: Literal["raw", "tonic", "phasic", "both", "difference", "scr_rate"] = _setting(
        "raw",
        "What is predicted: raw conductance, tonic, phasic, both (two channels), difference (change per second), or "
        "scr_rate (responses per minute around each frame).",
    )
    causal: bool = _setting(False, "For causal models: no step looks ahead, so that no target contains the future.")

    # Kleckner et al. 2018 start at 0.05 uS. Real recorders have offsets (PMEmo: down to -3.8 uS), so the lower edge
    # only catches what is no conductance at all; set 0.05 to have their rule.
    min_us: float = _setting(-60.0, "Samples below are invalid, uS (Kleckner et al. 2018: 0.05).")
    max_us: float = _setting(60.0, "Samples above are invalid, uS; a median above rejects the trial: wrong unit.")
    negative: Literal["keep", "mask", "reject"] = _setting(
        "keep", "Samples below 0 uS: keep (a recorder's offset, noted), mask them, or reject the trial."
    )
    max_slope_us: float = _setting(10.0, "Steeper change, either way, is an artefact, uS/s.")
    spread_seconds: float = _setting(5.0, "An artefact invalidates this much on either side, s.")
    min_temperature: float = _setting(30.0, "Skin temperature, where given, below this: not worn, degrees C.")
    max_temperature: float = _setting(40.0, "Skin temperature, where given, above this: not worn, degrees C.")
    # Flat PMEmo trials range over 0.05 and 0.04 uS, about 30 steps of 0.0015 uS; a flat E4 over 0.05 uS in 40 minutes.
    # A response counts from about 0.05 uS, so a trial under twice that shows at most one, and mostly steps.
    min_range_us: float = _setting(0.1, "A trial whose 1st to 99th percentile span less is rejected as flat, uS.")
    min_levels: int = _setting(10, "A trial with fewer different values is rejected: the recorder's steps rule it.")
    min_seconds: float = _setting(5.0, "Shorter trials are rejected, s (a response takes about this long).")
    max_invalid_fraction: float = _setting(0.5, "A trial with a larger share of invalid frames is rejected.")
    max_gap_seconds: float = _setting(2.0, "Gaps up to this long are interpolated, longer ones masked, s.")

    low_pass_hz: float | None = _setting(1.0, "Low-pass cut-off, Hz: 0.6 PMEmo's paper, 3 NeuroKit, 5 BioSPPy; null.")
    low_pass_order: int = _setting(4, "Order of the Butterworth low-pass.")
    log_offset_us: float | None = _setting(None, "Take ln(1 + this + uS); null: no logarithm.")
    detrend: Literal["none", "mean", "linear"] = _setting(
        "none", "Subtract the trial's mean or straight line; decides whether a model is scored on drift."
    )
    decomposition: Literal["none", "highpass", "smoothmedian", "cvxeda"] = _setting(
        "none", "How tonic and phasic are told apart; cvxeda needs the extra `eda`."
    )
    high_pass_hz: float = _setting(0.05, "Cut-off of the highpass decomposition, Hz.")
    median_seconds: float = _setting(4.0, "Window of the smoothmedian decomposition, s.")
    scr_min_us: float = _setting(0.05, "A skin conductance response rises by at least this much, uS.")
    scr_window_seconds: float = _setting(10.0, "Responses are counted over this long around a frame, s.")
    discard_seconds: float = _setting(0.0, "Mask this much at the start; time stays aligned, s.")
    lag_seconds: float = _setting(0.0, "Frame t gets the conductance of t + this: skin answers sound late, s.")

    normalisation: Literal["none", "z", "minmax", "robust", "range"] = _setting(
        "z", "How targets are scaled for training."
    )
    normalisation_scope: Literal["global", "listener", "trial"] = _setting(
        "listener", "Whose statistics scale a trial: everyone's, its listener's, or its own (not undone: no uS)."
    )

    def __post_init__(self) -> None:
        # Annotations, not the fields' types: HfArgumentParser rewrites those.
        for name, kind in EdaSettings.__annotations__.items():
            value, choices = getattr(self, name), get_args(kind)
            if kind is bool or (value is None and type(None) in choices):
                continue
            if choices and float not in choices:
                if value not in choices:
                    raise ValueError(f"{name} = {value!r}; it takes one of {list(choices)}")
            elif not isinstance(value, int if kind is int else int | float) or not math.isfinite(value):
                wanted = "a whole number" if kind is int else "a finite number"
                raise ValueError(f"{name} = {value!r}; it takes {wanted}")
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        """What is wrong between and within the settings, one line each."""
        positive = ["frame_rate", "max_slope_us", "high_pass_hz", "median_seconds", "scr_min_us", "scr_window_seconds"]
        positive += ["low_pass_order", "low_pass_hz"]
        not_negative = ["spread_seconds", "min_range_us", "min_levels", "min_seconds", "max_gap_seconds"]
        not_negative += ["discard_seconds", "lag_seconds"]
        for name in positive:
            value = getattr(self, name)
            if value is not None and value <= 0:
                yield f"{name} = {value}; it takes a number above 0"
        for name in not_negative:
            if getattr(self, name) < 0:
                yield f"{name} = {getattr(self, name)}; it takes 0 or more"
        for low, high in (("min_us", "max_us"), ("min_temperature", "max_temperature")):
            if getattr(self, low) >= getattr(self, high):
                yield f"{low} = {getattr(self, low)} is not below {high} = {getattr(self, high)}"
        if not 0 <= self.max_invalid_fraction <= 1:
            yield f"max_invalid_fraction = {self.max_invalid_fraction}; it takes a share from 0 to 1"
        if abs(self.lag_seconds * self.frame_rate - round(self.lag_seconds * self.frame_rate)) > ROUNDING:
            yield f"lag_seconds = {self.lag_seconds} is no whole number of frames at frame_rate = {self.frame_rate} Hz"
        if self._decomposes and self.decomposition == "none":
            yield f"eda_target '{self.eda_target}' needs a decomposition: one of 'highpass', 'smoothmedian', 'cvxeda'"
        if self._decomposes and self.decomposition == "highpass" and self.high_pass_hz >= self.frame_rate / 2:
            yield f"high_pass_hz = {self.high_pass_hz}; it takes less than half of frame_rate = {self.frame_rate} Hz"
        if self.causal:
            if self.detrend != "none":
                yield f"detrend '{self.detrend}' is fitted on the whole trial, its future too; causal takes 'none'"
            if self.normalisation != "none" and self.normalisation_scope == "trial":
                yield "normalisation_scope 'trial' looks at the trial's future; causal takes 'global' or 'listener'"
            if self._decomposes and self.decomposition == "cvxeda":
                yield "decomposition 'cvxeda' solves for the whole trial; causal takes 'highpass' or 'smoothmedian'"
            if self.eda_target == "scr_rate":
                yield "eda_target 'scr_rate' knows a response by its peak, hence late; causal takes another target"

    @property
    def _decomposes(self) -> bool:
        return self.eda_target in ("tonic", "phasic", "both", "scr_rate")

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the target's channels, in order."""
        return ("tonic", "phasic") if self.eda_target == "both" else (self.eda_target,)

    @property
    def unit(self) -> str:
        """Unit of the processed values before normalisation, as reports and predictions print it."""
        if self.eda_target == "scr_rate":
            return "SCR/min"
        unit = "uS" if self.log_offset_us is None else f"ln(1 + {self.log_offset_us:g} + uS)"
        unit = f"{unit}/s" if self.eda_target == "difference" else unit
        removed = {"mean": "trial mean removed", "linear": "trial line removed"}.get(self.detrend)
        return f"{unit} ({removed})" if removed else unit
