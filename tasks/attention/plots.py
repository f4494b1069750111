"""Figures of a model of attention, from the record of its scores and from its predictions."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reporting.plots import FAINT, MODEL, OTHERS, TRUTH, WIDTH, draw_scores, literal, panels_below_each_other
from system.text import plural

WORST = -0.5  # of R2 and correlations in a figure: what lies below is told in numbers
BEST = 1.05  # nothing lies above 1
FAINTEST = 0.15  # opacity of a dot among thousands
DENSE = 500  # dots, from which on they are drawn fainter


def plot_predicted(targets: np.ndarray, predictions: np.ndarray, unit: str) -> Figure:
    """Predicted over measured attention, a dot a creative, both (N,), with the line of equality."""
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
    """R2 and Spearman of the model, of its baselines, and of the model with less to go by, with intervals."""
    others = test["baselines"] | test["ablations"]
    figure, panels = panels_below_each_other(2, height=0.27 * (1 + len(others)) + 0.3, sharey=False)
    for panel, (score, heading) in zip(panels, (("r2", "R2"), ("spearman", "Spearman")), strict=True):
        scores = {"model": test["scores"][score]}
        scores |= {literal(who): found["scores"][score] for who, found in others.items()}
        draw_scores(panel, scores)
        if scores["model"]["mean"] is not None:
            panel.axvline(scores["model"]["mean"], color=FAINT, linewidth=0.8, zorder=0)
        cut_at_worst(panel, scores)
        panel.set_xlabel(f"{heading}, with 95 % intervals over creatives", fontsize=9)
    return figure


def cut_at_worst(panel: Axes, scores: dict[str, dict[str, Any]]) -> None:
    """Show 0, and in numbers what lies far below it: one bad score shall not squeeze the others together."""
    left, right = panel.get_xlim()
    panel.set_xlim(max(min(left, 0), WORST), min(max(right, 0.05), BEST))
    panel.axvline(0, color=TRUTH, linewidth=0.8, zorder=0)
    for place, score in enumerate(reversed(scores.values())):
        if score["mean"] is not None and score["mean"] < WORST:
            panel.annotate(f" ← {score['mean']:.2f}", (panel.get_xlim()[0], place), fontsize=8, va="center")


def plot_removals(test: dict[str, Any]) -> Figure | None:
    """What the model loses in R2 with less to go by, a bar an ablation with its interval; None without ablations."""
    score = test["verdict"]["score"]
    lost = {who: found["difference"][score] for who, found in test["ablations"].items()}
    lost = {who: found for who, found in lost.items() if found["mean"] is not None}
    if not lost:
        return None
    figure, (panel,) = panels_below_each_other(1, height=0.27 * len(lost))
    for place, found in enumerate(reversed(lost.values())):
        sure = found["low"] is not None and found["low"] > 0
        panel.barh(place, found["mean"], height=0.6, color=MODEL if sure else OTHERS)
        if found["low"] is not None:
            panel.plot([found["low"], found["high"]], [place, place], color=TRUTH, linewidth=1.2)
    panel.axvline(0, color=TRUTH, linewidth=0.8)
    panel.set_yticks(range(len(lost)), [literal(who.replace("_", " ")) for who in reversed(lost)])
    panel.set_xlabel("R2 lost, with 95 % intervals over creatives (blue: the interval is above 0)", fontsize=9)
    return figure


def plot_residuals(residuals: list[dict[str, Any]], unit: str) -> Figure:
    """The mean of predicted less measured, with its interval, in each fifth of the measured attention."""
    figure, (panel,) = panels_below_each_other(1, height=2.4)
    for place, part in enumerate(residuals):
        found = part["residual"]
        if found["low"] is not None:
            panel.plot([place, place], [found["low"], found["high"]], color=MODEL, linewidth=2, solid_capstyle="butt")
        panel.plot(place, found["mean"], "o", color=MODEL, markersize=6)
    panel.axhline(0, color=TRUTH, linewidth=0.8)
    ticks = [f"{part['from']:.3g} to {part['to']:.3g}\n{plural(part['rows'], 'creative')}" for part in residuals]
    panel.set_xticks(range(len(residuals)), ticks)
    panel.set_xlim(-0.5, len(residuals) - 0.5)
    panel.set_xlabel(f"measured ({literal(unit)})", fontsize=9)
    panel.set_ylabel(f"predicted less measured ({literal(unit)})", fontsize=9)
    return figure
