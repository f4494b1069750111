"""Normalisation of targets that can be undone: every method is y = (value - offset) / scale, a channel at a time.

`Scaling` is fitted on training trials, applied to all, and saved as a plain dict of numbers, so that a model that
travels without this package can put its predictions back: value = y * scale + offset.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

METHODS = ("none", "z", "minmax", "robust", "range")
SCOPES = ("global", "listener", "trial")
MIN_SPREAD = 1e-3  # in the target's unit: below one step of a 50 Hz recorder (0.0015 uS), so dividing amplifies steps
NORMAL_IQR = 1.349  # interquartile range of a normal distribution with standard deviation 1

Trial = tuple[np.ndarray, np.ndarray]  # values (frames, channels), mask (frames,)


@dataclass(frozen=True)
class Scaling:
    """Fitted offsets and scales, one a channel: for everyone, and for each listener under listener scope.

    `unit` labels what `invert` gives, hence predictions: the target's own unit, or "z (per trial)" and the like under
    trial scope, which nothing can undo because a new trial's statistics are not known before it is recorded.
    `offset` and `scale` are then 0 and 1, so that the dict's arithmetic stays true to the label.
    """

    method: str
    scope: str
    unit: str
    channels: tuple[str, ...]
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    listeners: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)

    def apply(self, values: np.ndarray, mask: np.ndarray, listener: str | None = None) -> np.ndarray:
        """Normalised values (frames, channels); masked frames are carried along, and count for no statistic."""
        self._check_channels(values)
        if self.scope != "trial" or self.method == "none":
            offset, scale = self._statistics(listener)
            return (values - offset) / scale
        if not mask.any():
            raise ValueError(f"trial of listener {listener!r} has no valid frame to scale it by: leave it out")
        offset, scale = statistics(values, mask, self.method)
        flat = [name for name, spread in zip(self.channels, scale, strict=True) if spread < MIN_SPREAD]
        if flat:
            raise ValueError(
                f"trial of listener {listener!r}: {', '.join(flat)} has a {self.method} spread under {MIN_SPREAD:g}; "
                "scaled by itself it would be noise at full weight: leave the trial out, or scale by listener"
            )
        return (values - offset) / scale

    def invert(self, values: np.ndarray, listener: str | None = None) -> np.ndarray:
        """Values (frames, channels) back in `unit`; raises under trial scope."""
        if self.scope == "trial" and self.method != "none":
            raise ValueError(
                f"values are in {self.unit!r}: each trial was scaled by its own statistics, which a prediction lacks; "
                "fit with scope 'global' or 'listener' to get them back"
            )
        self._check_channels(values)
        offset, scale = self._statistics(listener)
        return values * scale + offset

    def falls_back(self, listener: str | None) -> bool:
        """Whether a listener is scaled by everyone's statistics for want of their own; training counts these."""
        return self.scope == "listener" and self.method != "none" and listener not in self.listeners

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings: fit for JSON and for a model's config."""
        listeners = {name: {key: list(row) for key, row in rows.items()} for name, rows in self.listeners.items()}
        lists = {"channels": list(self.channels), "offset": list(self.offset), "scale": list(self.scale)}
        return asdict(self) | lists | {"listeners": listeners}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Scaling":
        """The inverse of `to_dict`; a ValueError names what is missing or unknown."""
        names = set(cls.__dataclass_fields__)
        if set(saved) != names:
            raise ValueError(f"scaling has keys {sorted(saved)}; it takes exactly {sorted(names)}")
        listeners = {name: {key: tuple(row) for key, row in rows.items()} for name, rows in saved["listeners"].items()}
        tuples = {key: tuple(saved[key]) for key in ("channels", "offset", "scale")}
        return cls(**(saved | tuples | {"listeners": listeners}))

    def _statistics(self, listener: str | None) -> tuple[np.ndarray, np.ndarray]:
        own = self.listeners.get(listener, {"offset": self.offset, "scale": self.scale})
        return np.asarray(own["offset"]), np.asarray(own["scale"])

    def _check_channels(self, values: np.ndarray) -> None:
        if np.ndim(values) != 2 or np.shape(values)[1] != len(self.channels):
            raise ValueError(
                f"values.shape = {np.shape(values)}; this scaling takes (frames, {len(self.channels)}), "
                f"one column for each of {list(self.channels)}"
            )


def fit_scaling(
    trials: Sequence[Trial],
    listeners: Sequence[str],
    method: str,
    scope: str,
    channels: Sequence[str],
    unit: str = "uS",
) -> Scaling:
    """Statistics of the valid frames of training trials; `listeners` names the listener of each.

    A listener whose frames spread by less than MIN_SPREAD gets no statistics of their own: they are scaled like
    everyone, where recorder steps stay small. Everyone together without a spread is an error.
    """
    if method not in METHODS or scope not in SCOPES:
        raise ValueError(f"scaling {method!r} by {scope!r}; it takes one of {METHODS} by one of {SCOPES}")
    if len(trials) != len(listeners):
        raise ValueError(f"{len(trials)} trials but {len(listeners)} listeners; name the listener of each trial")
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
                f"trial of listener {listener!r}: values.shape = {np.shape(values)}; "
                f"takes (frames, {len(channels)}), one column for each of {list(channels)}"
            )
        by_listener.setdefault(listener, []).append(values[mask])
    pooled = {listener: np.concatenate(rows) for listener, rows in by_listener.items()}
    everyone = np.concatenate(list(pooled.values())) if pooled else np.empty((0, len(channels)))
    if not len(everyone):
        raise ValueError(f"no valid frame in {len(trials)} training trials to fit a {method!r} scaling on")
    offset, scale = statistics(everyone, None, method)
    if min(scale) < MIN_SPREAD:
        raise ValueError(
            f"channels {list(channels)} have {method!r} spreads {scale.tolist()} over {len(trials)} training trials; "
            f"below {MIN_SPREAD:g} there is nothing to learn: check the unit, or take another method"
        )
    own = {}
    if scope == "listener":
        for listener, rows in pooled.items():
            own_offset, own_scale = statistics(rows, None, method) if len(rows) else (offset, np.zeros(1))
            if min(own_scale) >= MIN_SPREAD:
                own[listener] = {"offset": tuple(own_offset.tolist()), "scale": tuple(own_scale.tolist())}
    return Scaling(method, scope, unit, channels, tuple(offset.tolist()), tuple(scale.tolist()), own)


def statistics(values: np.ndarray, mask: np.ndarray | None, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Offset and scale (channels,) of the valid frames of values (frames, channels); a constant has scale 0.

    z: mean, standard deviation. minmax: lowest, highest - lowest. robust: median, interquartile range / 1.349 (a
    standard deviation where the values are normal). range: 0, highest - lowest, so that 0 stays 0 (range correction of
    phasic responses, whose 0 means none).
    """
    rows = values if mask is None else values[mask]
    if method == "z":
        return rows.mean(axis=0), rows.std(axis=0)
    if method == "robust":
        low, middle, high = np.percentile(rows, [25, 50, 75], axis=0)
        return middle, (high - low) / NORMAL_IQR
    low, high = rows.min(axis=0), rows.max(axis=0)
    return (low if method == "minmax" else np.zeros_like(low)), high - low
