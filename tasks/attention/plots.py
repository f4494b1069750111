"""Figures of a model of attention, from the record of its scores and from its predictions."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reporting.plots import FAINT, MODEL, OTHERS, TRUTH, WIDTH, draw_scores, literal, panels_below_each_other
from system.text import plural

WORST = -0.5  # lowest R2 or correlation on the axis; worse scores are written as numbers
BEST = 1.05  # no score is above 1
FAINTEST = 0.15  # opacity of a dot among thousands
DENSE = 500  # dots; more are drawn with lower opacity


def plot_predicted(targets: np.ndarray, predictions: np.ndarray, unit: str) -> Figure:
    """Draw predicted against measured attention, both (N,), with one dot per creative and the line of equality."""
    figure = Figure(figsize=(min(WIDTH, 4.8), 4.6), layout="constrained")
    panel = figure.subplots()
    opacity = max(FAINTEST, min(0.7, DENSE / len(targets) * 0.7))
    panel.scatter(targets, predictions, 12, color=MODEL, alpha=opacity, linewidths=0)
    low, high = min(targets.min(), predictions.min()), max(targets.max(), predictions.max())
    edge = 0.04 * (high - low or 1)
    panel.plot([low, high], [low, high], color=TRUTH, linewidth=0.8, linestyle=":")
    panel.set_xlim(low - edge, high + edge)
    panel.set_ylim(low - edge, high + edge)
    panel.set_aspect("equal")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    panel.set_xlabel(f"measured ({literal(unit)})", fontsize=9)
    panel.set_ylabel(f"predicted ({literal(unit)})", fontsize=9)
    return figure


def plot_compared(test: dict[str, Any]) -> Figure:
    """Draw R2 and Spearman of the model, its baselines, and the model with fewer modalities, with intervals."""
    rivals = test["baselines"] | test["ablations"]
    figure, panels = panels_below_each_other(2, height=0.27 * (1 + len(rivals)) + 0.3, sharey=False)
    for panel, (score, heading) in zip(panels, (("r2", "R2"), ("spearman", "Spearman")), strict=True):
        scores = {"model": test["scores"][score]}
        scores |= {literal(who): rival["scores"][score] for who, rival in rivals.items()}
        draw_scores(panel, scores)
        if scores["model"]["mean"] is not None:
            panel.axvline(scores["model"]["mean"], color=FAINT, linewidth=0.8, zorder=0)
        cut_at_worst(panel, scores)
        panel.set_xlabel(f"{heading}, with 95 % intervals over creatives", fontsize=9)
    return figure


def cut_at_worst(panel: Axes, scores: dict[str, dict[str, Any]]) -> None:
    """Limit the axis to scores from WORST to BEST, and write worse ones as numbers."""
    # One very bad score would squeeze all others into a few pixels.
    left, right = panel.get_xlim()
    panel.set_xlim(max(min(left, 0), WORST), min(max(right, 0.05), BEST))
    panel.axvline(0, color=TRUTH, linewidth=0.8, zorder=0)
    for row, score in enumerate(reversed(scores.values())):
        if score["mean"] is not None and score["mean"] < WORST:
            panel.annotate(f" ← {score['mean']:.2f}", (panel.get_xlim()[0], row), fontsize=8, va="center")


def plot_removals(test: dict[str, Any]) -> Figure | None:
    """Draw the loss in R2 with fewer modalities, one bar per ablation with its interval; None without ablations."""
    score = test["verdict"]["score"]
    lost = {who: ablation["difference"][score] for who, ablation in test["ablations"].items()}
    lost = {who: difference for who, difference in lost.items() if difference["mean"] is not None}
    if not lost:
        return None
    figure, (panel,) = panels_below_each_other(1, height=0.27 * len(lost))
    for row, difference in enumerate(reversed(lost.values())):
        significant = difference["low"] is not None and difference["low"] > 0
        panel.barh(row, difference["mean"], height=0.6, color=MODEL if significant else OTHERS)
        if difference["low"] is not None:
            panel.plot([difference["low"], difference["high"]], [row, row], color=TRUTH, linewidth=1.2)
    panel.axvline(0, color=TRUTH, linewidth=0.8)
    panel.set_yticks(range(len(lost)), [literal(who.replace("_", " ")) for who in reversed(lost)])
    panel.set_xlabel("R2 lost, with 95 % intervals over creatives (blue: the interval is above 0)", fontsize=9)
    return figure


def plot_residuals(residuals: list[dict[str, Any]], unit: str) -> Figure:
    """Draw the mean error, with its interval, in each fifth of the measured attention."""
    figure, (panel,) = panels_below_each_other(1, height=2.4)
    for column, part in enumerate(residuals):
        error = part["residual"]
        if error["low"] is not None:
            ends = [error["low"], error["high"]]
            panel.plot([column, column], ends, color=MODEL, linewidth=2, solid_capstyle="butt")
        panel.plot(column, error["mean"], "o", color=MODEL, markersize=6)
    panel.axhline(0, color=TRUTH, linewidth=0.8)
    ticks = [f"{part['from']:.3g} to {part['to']:.3g}\n{plural(part['rows'], 'creative')}" for part in residuals]
    panel.set_xticks(range(len(residuals)), ticks)
    panel.set_xlim(-0.5, len(residuals) - 0.5)
    panel.set_xlabel(f"measured ({literal(unit)})", fontsize=9)
    panel.set_ylabel(f"predicted minus measured ({literal(unit)})", fontsize=9)
    return figure
