"""Reversible normalization of targets. Every method is y = (value - offset) / scale, per channel.

`Scaling` is fitted on training trials, applied to all trials, and saved as a plain dict of numbers. A model that is
used without this package can therefore undo it: value = y * scale + offset.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

METHODS = ("none", "z", "minmax", "robust", "range")
SCOPES = ("global", "listener", "trial")
# In the target's unit. Below one step of a 50 Hz recorder (0.0015 uS), dividing would amplify quantization steps.
MIN_SPREAD = 1e-3
NORMAL_IQR = 1.349  # interquartile range of a normal distribution with standard deviation 1

Trial = tuple[np.ndarray, np.ndarray]  # values (frames, channels), mask (frames,)


@dataclass(frozen=True)
class Scaling:
    """Fitted offsets and scales, one per channel: of all trials, and of each listener with scope "listener".

    `unit` is the unit of predictions, the result of `invert`: the target's own unit, or for example "z (per trial)"
    with scope "trial". That scope cannot be undone, because a new trial's statistics are not known in
    advance. `offset` and `scale` are then 0 and 1, so that value = y * scale + offset still gives `unit`.
    """

    method: str
    scope: str
    unit: str
    channels: tuple[str, ...]
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    listeners: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)

    def apply(self, values: np.ndarray, mask: np.ndarray, listener: str | None = None) -> np.ndarray:
        """Normalize values (frames, channels). Masked frames are scaled too, but count for no statistic."""
        self._check_channels(values)
        if self.scope != "trial" or self.method == "none":
            offset, scale = self._statistics(listener)
            return (values - offset) / scale
        if not mask.any():
            raise ValueError(f"listener={listener!r}: a trial has no valid frame to scale by. Leave it out.")
        offset, scale = statistics(values, mask, self.method)
        flat = [name for name, spread in zip(self.channels, scale, strict=True) if spread < MIN_SPREAD]
        if flat:
            raise ValueError(
                f"listener={listener!r}: a trial's {self.method} spread of {', '.join(flat)} is below {MIN_SPREAD:g}, "
                "so scaling by trial would amplify noise. Leave the trial out, or scale by listener."
            )
        return (values - offset) / scale

    def invert(self, values: np.ndarray, listener: str | None = None) -> np.ndarray:
        """Convert values (frames, channels) back to `unit`. Raise ValueError with scope "trial"."""
        if self.scope == "trial" and self.method != "none":
            raise ValueError(
                f"scope='trial': values in {self.unit!r} cannot be converted back, because a prediction has no "
                "statistics of its trial. Fit with scope global or listener."
            )
        self._check_channels(values)
        offset, scale = self._statistics(listener)
        return values * scale + offset

    def falls_back(self, listener: str | None) -> bool:
        """Return whether a listener has no statistics of their own and is scaled by everyone's."""
        return self.scope == "listener" and self.method != "none" and listener not in self.listeners

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, for JSON or a model's config."""
        listeners = {name: {key: list(row) for key, row in rows.items()} for name, rows in self.listeners.items()}
        lists = {"channels": list(self.channels), "offset": list(self.offset), "scale": list(self.scale)}
        return asdict(self) | lists | {"listeners": listeners}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Scaling":
        """Invert `to_dict`. Raise ValueError for missing or unknown keys."""
        names = set(cls.__dataclass_fields__)
        if set(saved) != names:
            raise ValueError(f"scaling: has keys {sorted(saved)}. Give exactly {sorted(names)}.")
        listeners = {name: {key: tuple(row) for key, row in rows.items()} for name, rows in saved["listeners"].items()}
        tuples = {key: tuple(saved[key]) for key in ("channels", "offset", "scale")}
        return cls(**(saved | tuples | {"listeners": listeners}))

    def _statistics(self, listener: str | None) -> tuple[np.ndarray, np.ndarray]:
        fitted = self.listeners.get(listener, {"offset": self.offset, "scale": self.scale})
        return np.asarray(fitted["offset"]), np.asarray(fitted["scale"])

    def _check_channels(self, values: np.ndarray) -> None:
        if np.ndim(values) != 2 or np.shape(values)[1] != len(self.channels):
            raise ValueError(
                f"values.shape={np.shape(values)}: must be (frames, {len(self.channels)}). Give one column for "
                f"each of {', '.join(self.channels)}."
            )


def fit_scaling(
    trials: Sequence[Trial],
    listeners: Sequence[str],
    method: str,
    scope: str,
    channels: Sequence[str],
    unit: str = "uS",
) -> Scaling:
    """Fit the statistics of the valid frames of training trials; `listeners` has the listener of each trial.

    A listener with a spread below MIN_SPREAD gets no statistics and is scaled by those of everyone, so that
    quantization steps stay small. If everyone's spread is below it, raise ValueError.
    """
    if method not in METHODS or scope not in SCOPES:
        raise ValueError(
            f"normalisation={method!r}, normalisation_scope={scope!r}: unknown. Give one of {', '.join(METHODS)}, and "
            f"one of {', '.join(SCOPES)}."
        )
    if len(trials) != len(listeners):
        raise ValueError(f"listeners: {len(listeners)} for {len(trials)} trials. Give one per trial.")
    channels = tuple(channels)
    identity = (0.0,) * len(channels), (1.0,) * len(channels)
    if method == "none":
        return Scaling(method, scope, unit, channels, *identity)
    if scope == "trial":
        return Scaling(method, scope, f"{method} (per trial)", channels, *identity)
    by_listener: dict[str, list[np.ndarray]] = {}
    for (values, mask), listener in zip(trials, listeners, strict=True):
        if np.ndim(values) != 2 or np.shape(values)[1] != len(channels):
            raise ValueError(
                f"listener={listener!r}: a trial has shape {np.shape(values)}, must be (frames, {len(channels)}). "
                f"Give one column for each of {', '.join(channels)}."
            )
        by_listener.setdefault(listener, []).append(values[mask])
    pooled = {listener: np.concatenate(rows) for listener, rows in by_listener.items()}
    everyone = np.concatenate(list(pooled.values())) if pooled else np.empty((0, len(channels)))
    if not len(everyone):
        raise ValueError(f"trials: no valid frame in {len(trials)} training trials to fit {method!r} on. Check them.")
    offset, scale = statistics(everyone, None, method)
    if min(scale) < MIN_SPREAD:
        raise ValueError(
            f"channels={list(channels)}: {method!r} spreads {scale.tolist()} over {len(trials)} training trials, "
            f"below {MIN_SPREAD:g}, leave nothing to learn. Check the unit, or give another normalisation."
        )
    per_listener = {}
    if scope == "listener":
        for listener, rows in pooled.items():
            own_offset, own_scale = statistics(rows, None, method) if len(rows) else (offset, np.zeros(1))
            if min(own_scale) >= MIN_SPREAD:
                per_listener[listener] = {"offset": tuple(own_offset.tolist()), "scale": tuple(own_scale.tolist())}
    return Scaling(method, scope, unit, channels, tuple(offset.tolist()), tuple(scale.tolist()), per_listener)


def statistics(values: np.ndarray, mask: np.ndarray | None, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and scale (channels,) of the valid frames of values (frames, channels). A constant has scale 0.

    z: mean, standard deviation. minmax: minimum, maximum - minimum. robust: median, interquartile range / 1.349 (the
    standard deviation of normal values). range: 0, maximum - minimum, so that 0 stays 0 (range correction of phasic
    responses, for which 0 means no response).
    """
    rows = values if mask is None else values[mask]
    if method == "z":
        return rows.mean(axis=0), rows.std(axis=0)
    if method == "robust":
        low, middle, high = np.percentile(rows, [25, 50, 75], axis=0)
        return middle, (high - low) / NORMAL_IQR
    low, high = rows.min(axis=0), rows.max(axis=0)
    return (low if method == "minmax" else np.zeros_like(low)), high - low
