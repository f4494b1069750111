"""What a model says of the utterances of a clip, over its time."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from matplotlib import colormaps
from matplotlib.axes import Axes

from reporting.plots import DPI, FAINT, FALSE, MODEL, OTHERS, TRUTH, WIDTH, literal, panels_below_each_other

SENTIMENTS = {"negative": FALSE, "neutral": OTHERS, "positive": "#2e7d4f"}  # others have the model's colour
FONT = 7  # points
LETTER = 0.062  # inches, of a letter of that size: an upper bound for most texts
ROOM = 0.8  # share of the figure's width that is a panel's inside
LINES = 3  # of a text
DARK = 0.6  # from this confidence on, a number is white on its cell
SHORTEST = 1.0  # s, of what is drawn where no end is known


class Utterance(Protocol):
    """What is said of one utterance."""

    start_seconds: float
    end_seconds: float | None
    text: str | None
    emotions: Sequence[dict[str, Any]]  # {"label": ..., "confidence": ...}, the likeliest first
    sentiments: Sequence[dict[str, Any]]
    missing: Sequence[str]


class Clip(Protocol):
    """What is said of one clip."""

    file: Path
    utterances: Sequence[Utterance]


def plot_emotions(clips: Sequence[Clip], path: Path) -> None:
    """A panel a clip: what is said, below it the likeliest emotions of each utterance, a row an emotion, and the
    sentiment. The darker a cell, the surer; the likeliest emotion has a frame. Words and numbers stand where they fit.
    """
    names = sorted({found["label"] for clip in clips for one in clip.utterances for found in one.emotions})
    figure, panels = panels_below_each_other(len(clips), height=0.75 + 0.24 * (len(names) + 1), sharey=False)
    for panel, clip in zip(panels, clips, strict=True):
        draw_clip(panel, clip, names)
    panels[-1].set_xlabel("time in the clip (s)", fontsize=9)
    figure.savefig(path, dpi=DPI)


def draw_clip(panel: Axes, clip: Clip, names: Sequence[str]) -> None:
    """One clip; emotions have the rows 0, 1, ... downwards, sentiment the row below them, words are above."""
    ends = [end_of(one) for one in clip.utterances]
    first, last = min(one.start_seconds for one in clip.utterances), max(ends)
    inches = ROOM * WIDTH / (last - first)  # a second
    below = len(names) + 0.25
    for row in range(len(names)):
        panel.broken_barh([(first, last - first)], (row - 0.42, 0.84), color=FAINT, alpha=0.25, linewidth=0)
    for one, end in zip(clip.utterances, ends, strict=True):
        letters = int((end - one.start_seconds) * inches / LETTER)
        middle = (one.start_seconds + end) / 2
        write(panel, middle, -1.15, said(one, letters), TRUTH)
        for place, found in reversed(list(enumerate(one.emotions))):  # the likeliest on top
            row, sure = names.index(found["label"]), found["confidence"]
            bar = [(one.start_seconds, end - one.start_seconds)]
            frame = {"edgecolor": MODEL, "linewidth": 1.0} if place == 0 else {"linewidth": 0}
            panel.broken_barh(
                bar, (row - 0.42, 0.84), facecolor=colormaps["Blues"](sure), zorder=2.5 - place / 9, **frame
            )
            if letters >= 4:
                write(panel, middle, row, f"{sure:.2f}", "white" if sure >= DARK else TRUTH)
        mood = one.sentiments[0]
        colour, sure = SENTIMENTS.get(mood["label"], MODEL), mood["confidence"]
        bar = [(one.start_seconds, end - one.start_seconds)]
        panel.broken_barh(bar, (below - 0.42, 0.84), facecolor=colour, alpha=0.2 + 0.5 * sure, linewidth=0)
        panel.vlines(one.start_seconds, -0.5, below + 0.42, color="white", linewidth=0.8, zorder=4)
        label = f"{mood['label']} {sure:.2f}"
        write(panel, middle, below, label if len(label) < letters else label[:3] if letters > 4 else "", TRUTH)
    panel.set_yticks([*range(len(names)), below], [*map(literal, names), "sentiment"])
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.set_ylim(below + 0.6, -2.0)
    panel.set_xlim(first, last)
    panel.xaxis.set_major_formatter("{x:,g}")
    panel.set_title(literal(f"{clip.file.name}: utterances: {len(clip.utterances):,}"), fontsize=9, loc="left")


def end_of(one: Utterance) -> float:
    """The end in s, or some for an utterance that goes on to an end that nobody knows."""
    return one.start_seconds + SHORTEST if not one.end_seconds else one.end_seconds


def said(one: Utterance, letters: int) -> str:
    """The words as so many letters a line allow, and what the model had to do without."""
    lack = f" (without {' and '.join(one.missing)})" if one.missing else ""
    if letters < 5:
        return ""
    lines = textwrap.wrap((one.text or "") + lack, letters, max_lines=LINES, placeholder="…")
    return "\n".join(lines)


def write(panel: Axes, x: float, y: float, text: str, colour: str) -> None:
    """Small letters in the middle of a place."""
    panel.text(x, y, literal(text), fontsize=FONT, ha="center", va="center", color=colour, zorder=5, clip_on=True)
