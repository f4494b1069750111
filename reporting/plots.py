"""Figures, from arrays: a plot never needs a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure


class Signal(Protocol):
    """Something with values over time: a prediction for one sound."""

    file: Path
    times: np.ndarray  # (T,) seconds
    values: np.ndarray  # (T, C)
    deviations: np.ndarray | None  # (T, C), one standard deviation
    channels: tuple[str, ...]
    unit: str


def plot_predictions(predictions: Sequence[Signal], path: Path) -> None:
    """One panel a sound, one line a channel."""
    figure = Figure(figsize=(9, 1 + 1.8 * len(predictions)), layout="constrained")
    panels = figure.subplots(len(predictions), 1, sharey=True, squeeze=False)[:, 0]
    for panel, prediction in zip(panels, predictions, strict=True):
        for channel, name in enumerate(prediction.channels):
            values = prediction.values[:, channel]
            (line,) = panel.plot(prediction.times, values, label=name, linewidth=1.2)
            if prediction.deviations is not None:
                spread = prediction.deviations[:, channel]
                panel.fill_between(
                    prediction.times, values - spread, values + spread, color=line.get_color(), alpha=0.2
                )
        panel.set_title(prediction.file.name, fontsize=9, loc="left")
        panel.set_ylabel(prediction.unit)
        panel.legend(frameon=False, fontsize=8, loc="upper right")
        panel.margins(x=0)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("time in the sound (s)")
    figure.savefig(path, dpi=150)
