"""Draw the predictions for the utterances of a clip over its time, or for lines of text one after the other."""

import textwrap
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reporting.plots import FAINT, FALSE, MODEL, OTHERS, TRUTH, WIDTH, literal, panels_below_each_other
from system.text import plural
from tasks.emotion.predict import ClipPrediction, UtterancePrediction

SENTIMENTS = {"negative": FALSE, "neutral": OTHERS, "positive": "#2e7d4f"}  # others have the model's colour
FONT = 7  # points
LETTER = 0.062  # inches per letter of that size; an upper bound for most texts
ROOM = 0.8  # share of the figure's width inside a panel
LINES = 3  # of a text
DARK = 0.6  # confidence; a cell above it has white text
SHORTEST = 1.0  # s, drawn for an utterance without a known end


def plot_emotions(clips: Sequence[ClipPrediction]) -> Figure:
    """Draw one panel per clip: its words, the most likely emotions of each utterance, and the sentiment.

    There is one row per emotion. A darker cell has a higher confidence, and the most likely emotion has a frame.
    Words and numbers that do not fit are left out.
    """
    names = sorted({emotion.label for clip in clips for one in clip.utterances for emotion in one.emotions})
    figure, panels = panels_below_each_other(len(clips), height=0.75 + 0.24 * (len(names) + 1), sharey=False)
    for panel, clip in zip(panels, clips, strict=True):
        draw_clip(panel, clip, names)
    timed = any(one.start_seconds is not None for clip in clips for one in clip.utterances)
    panels[-1].set_xlabel("time in the clip (s)" if timed else "line", fontsize=9)
    return figure


def draw_clip(panel: Axes, clip: ClipPrediction, names: Sequence[str]) -> None:
    """Draw one clip: words on top, then the emotions in the rows 0, 1, ... downwards, then the sentiment."""
    spans = [span_of(one, line) for line, one in enumerate(clip.utterances, 1)]
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    inches = ROOM * WIDTH / (last - first)  # per second
    below = len(names) + 0.25
    for row in range(len(names)):
        panel.broken_barh([(first, last - first)], (row - 0.42, 0.84), color=FAINT, alpha=0.25, linewidth=0)
    for one, (start, end) in zip(clip.utterances, spans, strict=True):
        letters = int((end - start) * inches / LETTER)
        middle = (start + end) / 2
        write(panel, middle, -1.15, wrapped_text(one, letters), TRUTH)
        bar = [(start, end - start)]
        for place, emotion in reversed(list(enumerate(one.emotions))):  # draw the most likely last, on top
            row, confidence = names.index(emotion.label), emotion.confidence
            panel.broken_barh(
                bar,
                (row - 0.42, 0.84),
                facecolor=colormaps["Blues"](confidence),
                zorder=2.5 - place / 9,
                edgecolor=MODEL if place == 0 else None,
                linewidth=1.0 if place == 0 else 0,
            )
            if letters >= 4:
                write(panel, middle, row, f"{confidence:.2f}", "white" if confidence >= DARK else TRUTH)
        sentiment = one.sentiments[0]
        colour, confidence = SENTIMENTS.get(sentiment.label, MODEL), sentiment.confidence
        panel.broken_barh(bar, (below - 0.42, 0.84), facecolor=colour, alpha=0.2 + 0.5 * confidence, linewidth=0)
        panel.vlines(start, -0.5, below + 0.42, color="white", linewidth=0.8, zorder=4)
        label = f"{sentiment.label} {confidence:.2f}"
        write(panel, middle, below, label if len(label) < letters else label[:3] if letters > 4 else "", TRUTH)
    panel.set_yticks([*range(len(names)), below], [*map(literal, names), "sentiment"])
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.set_ylim(below + 0.6, -2.0)
    panel.set_xlim(first, last)
    panel.xaxis.set_major_formatter("{x:,g}")
    name = "" if clip.file is None else f"{clip.file.name}: "
    panel.set_title(literal(f"{name}{plural(len(clip.utterances), 'utterance')}"), fontsize=9, loc="left")


def span_of(one: UtterancePrediction, line: int) -> tuple[float, float]:
    """Return start and end in s, SHORTEST apart if the end is unknown; a line without times has its number."""
    if one.start_seconds is None:
        return line - 0.5, line + 0.5
    return one.start_seconds, one.end_seconds or one.start_seconds + SHORTEST


def wrapped_text(one: UtterancePrediction, letters: int) -> str:
    """Return the words and the missing modalities, wrapped to lines of `letters` letters."""
    lack = f" (without {' and '.join(one.missing)})" if one.missing else ""
    if letters < 5:
        return ""
    lines = textwrap.wrap((one.text or "") + lack, letters, max_lines=LINES, placeholder="…")
    return "\n".join(lines)


def write(panel: Axes, x: float, y: float, text: str, colour: str) -> None:
    panel.text(x, y, literal(text), fontsize=FONT, ha="center", va="center", color=colour, zorder=5, clip_on=True)
