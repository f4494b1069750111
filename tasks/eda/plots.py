"""Figures of the eda task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from reporting.plots import FAINT, MODEL, OTHERS, TRUTH, draw_scores, literal, panels_below_each_other


class Signal(Protocol):
    """A prediction for one sound."""

    file: Path
    times: np.ndarray  # (T,) seconds
    values: np.ndarray  # (T, C)
    deviations: np.ndarray | None  # (T, C), one standard deviation
    channels: tuple[str, ...]
    unit: str


def plot_predictions(predictions: Sequence[Signal]) -> Figure:
    """Draw one panel per sound with one line per channel."""
    figure, panels = panels_below_each_other(len(predictions))
    for panel, prediction in zip(panels, predictions, strict=True):
        for channel, name in enumerate(prediction.channels):
            values = prediction.values[:, channel]
            (line,) = panel.plot(prediction.times, values, label=name, linewidth=1.2)
            if prediction.deviations is not None:
                spread = prediction.deviations[:, channel]
                panel.fill_between(
                    prediction.times, values - spread, values + spread, color=line.get_color(), alpha=0.2
                )
        panel.set_title(literal(prediction.file.name), fontsize=9, loc="left")
        panel.set_ylabel(prediction.unit)
        panel.legend(frameon=False, fontsize=8, loc="upper right")
        panel.margins(x=0)
    panels[-1].set_xlabel("time in the sound (s)")
    return figure


def plot_scores(channel: dict[str, Any], name: str) -> Figure:
    """Draw r after detrending of the model, its baselines and its ceiling, with intervals.

    Args:
        channel: the assessment of one channel.
    """
    scores = {"model": channel["model"]["detrended_pearson"]}
    scores |= {who: each["detrended_pearson"] for who, each in channel["baselines"].items()}
    null = channel["null"]
    if null is not None:
        scores["wrong song"] = {"mean": null["score_of_wrong"], "low": None, "high": None}
    scores["one listener against the others"] = channel["ceiling"]["leave_one_out"]
    figure, (panel,) = panels_below_each_other(1, height=0.27 * len(scores))
    draw_scores(panel, scores)
    panel.axvline(0, color=TRUTH, linewidth=0.8)
    panel.set_xlabel(f"{name}: r within trials after detrending, mean and 95 % interval", fontsize=9)
    return figure


def plot_trials(trials: Sequence[tuple[str, dict[str, Any]]]) -> Figure:
    """Draw predicted and recorded signals of trials, given as titles and rows of the prediction table.

    Masked frames are shaded.
    """
    figure, panels = panels_below_each_other(len(trials), sharey=False)
    for panel, (title, row) in zip(panels, trials, strict=True):
        target = np.array(row["target"], dtype=float)  # (T,), NaN where masked
        prediction = np.array(row["prediction"], dtype=float)
        times = np.arange(len(target)) / row["frame_rate"]
        masked = np.isnan(target)
        for start, stop in runs(masked):
            panel.axvspan(times[start], times[start] + (stop - start) / row["frame_rate"], color=FAINT, lw=0)
        panel.plot(times, target, color=TRUTH, linewidth=1.2, label="recorded")
        panel.plot(times, prediction, color=MODEL, linewidth=1.4, label="predicted")
        panel.set_title(literal(title), fontsize=9, loc="left")
        panel.set_ylabel(row["unit"], fontsize=9)
        panel.margins(x=0)
    panels[0].legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    panels[-1].set_xlabel("time since onset (s); shaded: masked frames", fontsize=9)
    return figure


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Return start and stop of each run of true values in flags (T,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def plot_null(null: dict[str, Any], ceiling: dict[str, Any]) -> Figure:
    """Draw the scores with permuted songs as a histogram, with the model's score and the ceiling."""
    figure, (panel,) = panels_below_each_other(1, height=2.2)
    edges, counts = null["histogram"]["edges"], null["histogram"]["counts"]
    panel.stairs(counts, edges, fill=True, color=FAINT, label=f"{null['permutations']} permutations")
    panel.axvline(null["score"], color=MODEL, linewidth=2, label="right songs")
    if null["score_of_wrong"] is not None:
        panel.axvline(null["score_of_wrong"], color=OTHERS, linewidth=2, label="wrong songs, mean")
    between_listeners = ceiling["leave_one_out"]["mean"]
    if between_listeners is not None:
        panel.axvline(between_listeners, color=TRUTH, linewidth=1, linestyle=":", label="ceiling: listener, others")
    panel.set_xlabel("mean r within trials after detrending", fontsize=9)
    panel.set_ylabel("permutations", fontsize=9)
    panel.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return figure


def plot_over_time(over_time: dict[str, Any], unit: str) -> Figure:
    """Draw RMSE against time since onset, of the model and of baselines without audio, and the number of trials."""
    figure, (errors, numbers) = panels_below_each_other(2, sharey=False)
    styles = {"model": (MODEL, "-"), "time_curve": (TRUTH, "-"), "straight_line": (OTHERS, "--")}
    for who, values in over_time["rmse"].items():
        colour, dash = styles.get(who, (OTHERS, ":"))
        label, errors_over_time = who.replace("_", " "), np.array(values, dtype=float)
        errors.plot(over_time["seconds"], errors_over_time, dash, color=colour, linewidth=1.3, label=label)
    errors.set_ylabel(f"RMSE ({unit})", fontsize=9)
    errors.set_ylim(bottom=0)
    errors.legend(frameon=False, fontsize=8, ncols=4)
    numbers.step(over_time["seconds"], over_time["trials"], where="post", color=OTHERS)
    numbers.set_ylim(bottom=0)
    numbers.set_ylabel("trials", fontsize=9)
    numbers.set_xlabel("time since onset (s)", fontsize=9)
    return figure


def plot_response(response: dict[str, Any]) -> Figure:
    """Draw the ridge weights over lag, one panel per descriptor, with intervals over songs."""
    figure, panels = panels_below_each_other(len(response["descriptors"]), height=1.2)
    for panel, (name, weights) in zip(panels, response["descriptors"].items(), strict=True):
        panel.fill_between(response["seconds"], weights["low"], weights["high"], color=FAINT, linewidth=0)
        panel.plot(response["seconds"], weights["weight"], color=MODEL, linewidth=1.3)
        panel.axhline(0, color=TRUTH, linewidth=0.8)
        panel.set_title(name.replace("_", " "), fontsize=9, loc="left")
        panel.margins(x=0)
    panels[-1].set_xlabel("seconds after the sound; weights in scaled units per standard deviation", fontsize=9)
    return figure


def plot_bands(bands: Sequence[dict[str, Any]]) -> Figure:
    """Draw the loss in r without each band of the input."""
    figure, (panel,) = panels_below_each_other(1, height=0.3 * len(bands))
    for row, band in enumerate(bands):
        lost = band["lost"]
        if lost["low"] is not None:
            panel.plot([lost["low"], lost["high"]], [row, row], color=MODEL, linewidth=2, solid_capstyle="butt")
        if lost["mean"] is not None:
            panel.plot(lost["mean"], row, "o", color=MODEL, markersize=6)
    panel.axvline(0, color=TRUTH, linewidth=0.8)
    panel.set_yticks(range(len(bands)), [band["name"] for band in bands])
    panel.set_xlabel("r after detrending lost without the band, mean and 95 % interval", fontsize=9)
    return figure


def plot_absence(absence: dict[str, Any]) -> Figure:
    """Draw the change of the prediction over time after a moment of the sound was removed."""
    figure, (panel,) = panels_below_each_other(1, height=2.2)
    panel.axvspan(0, absence["window_seconds"], color=FAINT, linewidth=0)
    panel.plot(absence["seconds"], absence["change"], color=MODEL, linewidth=1.3)
    panel.set_ylim(bottom=0)
    panel.margins(x=0)
    panel.set_ylabel("change (scaled units)", fontsize=9)
    panel.set_xlabel("seconds after the start of the removed moment (shaded)", fontsize=9)
    return figure
