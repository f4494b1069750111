"""Style and drawing of figures that all tasks share, from arrays and records."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from system.text import printable

MODEL, OTHERS, TRUTH, FAINT = "#1f5fa8", "#8a8f98", "#1b1b1b", "#d9dce1"  # each colour has one meaning in all figures
THRESHOLD, FALSE = "#b86e00", "#b3261e"  # a decision threshold; a false alarm
WIDTH = 7.5  # inches, the width of a text column
DPI = 150


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def literal(text: str) -> str:
    """Return text that a figure shows as it is."""
    # matplotlib reads text between two $ as a formula.
    return printable(text).replace("$", r"\$")


def panels_below_each_other(count: int, height: float = 1.8, sharey: bool = True) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with `count` panels of `height` inches each, in the style of all figures."""
    figure = Figure(figsize=(WIDTH, 0.8 + height * count), layout="constrained")
    panels = figure.subplots(count, 1, sharey=sharey, squeeze=False)[:, 0]
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    return figure, panels


def legend_above(panel: Axes) -> None:
    """Draw the legend in one row above a panel, where it covers no data."""
    panel.legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)


def draw_scores(panel: Axes, scores: dict[str, dict[str, Any]]) -> None:
    """Draw one dot per score on its interval, the first score at the top."""
    for row, (who, score) in enumerate(reversed(scores.items())):
        if score["mean"] is None:
            panel.annotate("undefined", (0, row), fontsize=8, va="center", color=OTHERS)
            continue
        colour = MODEL if who == "model" else OTHERS
        if score["low"] is not None:
            panel.plot([score["low"], score["high"]], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        panel.plot(score["mean"], row, "o", color=colour, markersize=6)
    panel.set_yticks(range(len(scores)), [who.replace("_", " ") for who in reversed(scores)])
    panel.set_ylim(-0.6, len(scores) - 0.4)


def plot_learning(training: dict[str, Any]) -> Figure | None:
    """Draw losses and the metric that chose the checkpoint over steps; None without a log."""
    log, best_step = training["log"], training["best_checkpoint_step"]
    chosen_by = training["chosen_by"].removeprefix("eval_")
    curves = {
        "training loss": [(entry["step"], entry["loss"]) for entry in log if "loss" in entry],
        "validation loss": [(entry["step"], entry["eval_loss"]) for entry in log if "eval_loss" in entry],
    }
    deciding = [(entry["step"], entry[f"eval_{chosen_by}"]) for entry in log if f"eval_{chosen_by}" in entry]
    if not any(curves.values()):
        return None
    figure, (losses, decision) = panels_below_each_other(2, sharey=False)
    for (label, points), colour in zip(curves.items(), (OTHERS, MODEL), strict=True):
        if points:
            losses.plot(*zip(*points, strict=True), ".-", label=label, color=colour, linewidth=1.2, markersize=4)
    losses.legend(frameon=False, fontsize=8)
    losses.set_ylabel("loss", fontsize=9)
    if deciding:
        decision.plot(*zip(*deciding, strict=True), ".-", color=MODEL, linewidth=1.2, markersize=4)
    decision.set_xlim(losses.get_xlim())
    for panel in (losses, decision):
        if best_step:
            panel.axvline(best_step, color=TRUTH, linewidth=0.8, linestyle=":")
    decision.set_ylabel(f"validation {chosen_by.replace('_', ' ')}", fontsize=9)
    decision.set_xlabel("optimizer step" + (" (dotted: the kept checkpoint)" if best_step else ""), fontsize=9)
    return figure
