"""Figures of a detector, from the records of its scores and its training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reporting.plots import (
    FAINT,
    FALSE,
    MODEL,
    OTHERS,
    THRESHOLD,
    TRUTH,
    legend_above,
    literal,
    panels_below_each_other,
)
from system.text import plural
from tasks.detection.results import name_of

TAGS_SHOWN = 8
LABELS_SHOWN = 15  # of confusers; more do not fit on a page
NAME_LENGTH = 42  # characters of a label next to a bar
PARTS = {  # of a batch, as the sampler names them
    "positive": "positives",
    "tier_a": "strong negatives, tier A",
    "tier_b": "strong negatives, tier B",
    "weak": "weak negatives",
}


def plot_precision_recall(test: dict[str, Any]) -> Figure | None:
    """Draw precision against recall of model and baselines, chance and the threshold; None without a curve."""
    # Each precision extends back to the previous recall. The area under the steps then equals average precision.
    if not test["curve"] or not test["curve"]["recall"]:
        return None
    figure, (panel,) = panels_below_each_other(1, height=3.1)
    draw_curve(panel, test["curve"], "-", color=MODEL, linewidth=1.6, label=with_score("model", test["scores"]))
    dashes = ("--", "-.", (0, (1, 1)), (0, (8, 2)))
    for place, (who, curve) in enumerate(test["baseline_curves"].items()):
        label = with_score(name_of(who), test["baselines"].get(who, {}))
        draw_curve(panel, curve, dashes[place % len(dashes)], color=OTHERS, linewidth=1.3, label=label)
    share = test["positives"] / (test["positives"] + test["negatives"])
    panel.axhline(share, color=TRUTH, linewidth=0.8, linestyle=":", label=f"chance: {100 * share:.3g} % positives")
    recall, precision = (test["scores"].get(name, {}).get("mean") for name in ("recall", "precision"))
    threshold = test["threshold"]["value"]
    if None not in (recall, precision, threshold):
        label = f"threshold {threshold:.3g}"
        panel.plot(recall, precision, "o", color=THRESHOLD, markersize=7, label=label, clip_on=False, zorder=3)
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("recall: share of clips with the target that are detected", fontsize=9)
    panel.set_ylabel("precision: share of detected\nclips that are correct", fontsize=9)
    panel.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def draw_curve(panel: Axes, curve: dict[str, list[float]], dash: Any, **style: Any) -> None:
    """Draw steps over increasing recall, starting at recall 0 with the first precision."""
    points = list(zip(curve["recall"], curve["precision"], strict=True))
    if points and points[0][0] > points[-1][0]:
        points.reverse()
    recall, precision = zip(*[(0.0, points[0][1]), *points], strict=True) if points else ((), ())
    panel.step(recall, precision, linestyle=dash, where="pre", **style)


def with_score(who: str, scores: dict[str, Any]) -> str:
    """Return the label of a curve: its name and the area under it."""
    area = scores.get("average_precision", {}).get("mean")
    return who.replace("_", " ") + ("" if area is None else f", AP {area:.3f}")


def plot_score_histogram(histogram: dict[str, Any] | None, threshold: float | None) -> Figure | None:
    """Draw the histogram of scores of positives and of negatives; None without clips."""
    if not histogram or not sum(histogram["positives"]) + sum(histogram["negatives"]):
        return None
    edges, counts = histogram["edges"], {name: np.array(histogram[name]) for name in ("negatives", "positives")}
    figure, (panel,) = panels_below_each_other(1, height=2.3)
    panel.stairs(counts["negatives"], edges, fill=True, color=OTHERS, alpha=0.55, label="clips without the target")
    panel.stairs(counts["positives"], edges, color=TRUTH, linewidth=1.5, baseline=None, label="clips with the target")
    if threshold is not None:
        label = f"threshold {threshold:.3g}"
        panel.axvline(threshold, color=THRESHOLD, linewidth=1.5, linestyle="--", label=label)
    panel.set_yscale("symlog", linthresh=1)  # a log scale that also shows 0
    panel.set_ylim(0, 1.6 * max(each.max() for each in counts.values()))
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.margins(x=0)
    panel.set_ylabel("clips", fontsize=9)
    panel.set_xlabel("score of a clip", fontsize=9)
    legend_above(panel)
    return figure


def plot_timelines(clips: Sequence[dict[str, Any]] | None, threshold: float | None) -> Figure | None:
    """Draw the score over time of some clips, with true and detected events below; None without clips.

    A detected event that overlaps no true one has the colour of false alarms. With a weak label only (`events` is
    None), the target may be anywhere in the clip, so no detected event counts as false.
    """
    if not clips:
        return None
    figure, panels = panels_below_each_other(len(clips), height=1.45)
    last = max(end for clip in clips for _, end, *_ in [(0, 0.1), *(clip["events"] or []), *clip["detected"]])
    last = max(last, *(second for clip in clips for second in clip["seconds"][-1:]))
    for panel, clip in zip(panels, clips, strict=True):
        panel.plot(
            clip["seconds"], np.array(clip["scores"], dtype=float), ".-", color=MODEL, linewidth=1.3, markersize=3
        )
        events = [(start, end, TRUTH) for start, end, *_ in clip["events"] or []]
        detected = [
            (start, end, MODEL if clip["events"] is None or overlaps_any(start, end, events) else FALSE)
            for start, end, *_ in clip["detected"]
        ]
        draw_below(panel, {"target": events, "detected": detected}, threshold)
        if clip["events"] is None:
            panel.annotate("somewhere (weak label)", (0.02 * last, -0.22), fontsize=8, va="center", color=TRUTH)
        panel.set_title(literal(clip["title"]), fontsize=9, loc="left")
        panel.set_xlim(0, last)
        panel.tick_params(labelbottom=panel is panels[-1])
    panels[-1].set_xlabel("time in the clip (s)", fontsize=9)
    return figure


def overlaps_any(start: float, end: float, events: Sequence[tuple[float, float, str]]) -> bool:
    return any(start < stop and begin < end for begin, stop, _ in events)


def draw_below(panel: Axes, rows: dict[str, list[tuple[float, float, str]]], threshold: float | None) -> None:
    """Draw one row of bars (start, end, colour) per name below scores from 0 to 1, and the threshold."""
    bottom = -0.14 - 0.22 * len(rows)
    panel.axhspan(bottom, -0.1, color=FAINT, alpha=0.4, linewidth=0)
    for place, bars in enumerate(rows.values()):
        for start, end, colour in bars:  # the edge keeps one second visible in an hour
            panel.broken_barh([(start, end - start)], (-0.3 - 0.22 * place, 0.15), color=colour, linewidth=0.7)
    if threshold is not None:
        panel.axhline(threshold, color=THRESHOLD, linewidth=1, linestyle="--")
    panel.set_yticks([*(-0.22 - 0.22 * place for place in range(len(rows))), 0, 0.5, 1], [*rows, "0", "0.5", "1"])
    panel.set_ylim(bottom, 1.05)


class Detected(Protocol):
    """The events detected in one recording."""

    file: Path
    events: np.ndarray  # (E, 3): start and end in s, score
    envelope: Any  # `peaks`, the highest score of each stretch of `stretch` seconds
    target: str
    threshold: float
    seconds: float  # of the recording


def plot_detections(recordings: Sequence[Detected]) -> Figure:
    """Draw score over time and detected events, one panel per recording."""
    figure, panels = panels_below_each_other(len(recordings), height=1.45)
    for panel, found in zip(panels, recordings, strict=True):
        peaks, stretch = found.envelope.peaks, found.envelope.stretch
        panel.stairs(peaks, np.arange(len(peaks) + 1) * stretch, color=MODEL, linewidth=1.2, baseline=None)
        draw_below(panel, {"detected": [(start, end, MODEL) for start, end, _ in found.events]}, found.threshold)
        title = f"{found.file.name}: {found.target}, events: {len(found.events):,}"
        panel.set_title(literal(title), fontsize=9, loc="left")
        panel.set_xlim(0, max(found.seconds, stretch))
        panel.xaxis.set_major_formatter("{x:,g}")
    panels[-1].set_xlabel("time in the recording (s)", fontsize=9)
    return figure


class Tagged(Protocol):
    """The scores of all labels in one recording."""

    file: Path
    envelope: Any  # `peaks`, the highest scores (L,) of each stretch of `stretch` seconds
    labels: Sequence[str]


def plot_tags(recordings: Sequence[Tagged]) -> Figure:
    """Draw the scores over time of the labels with the highest scores, one panel per recording."""
    figure, panels = panels_below_each_other(len(recordings), height=0.2 * TAGS_SHOWN + 0.5, sharey=False)
    colours = LinearSegmentedColormap.from_list("scores", ["#ffffff", MODEL])
    for panel, found in zip(panels, recordings, strict=True):
        peaks = np.array(found.envelope.peaks).T  # (L, stretches)
        shown = np.argsort(-peaks.max(axis=1))[:TAGS_SHOWN]
        seconds = peaks.shape[1] * found.envelope.stretch
        picture = panel.imshow(
            peaks[shown], vmin=0, vmax=1, cmap=colours, aspect="auto", interpolation="none",
            extent=(0, seconds, len(shown) - 0.5, -0.5),
        )  # fmt: skip
        panel.set_yticks(range(len(shown)), [shortened(found.labels[int(place)]) for place in shown], fontsize=8)
        panel.set_title(literal(found.file.name), fontsize=9, loc="left")
        panel.xaxis.set_major_formatter("{x:,g}")
        figure.colorbar(picture, ax=panel, pad=0.01, aspect=10).ax.tick_params(labelsize=8)
    panels[-1].set_xlabel("start of the window (s)", fontsize=9)
    return figure


def plot_confusers(confusers: Sequence[dict[str, Any]] | None) -> Figure | None:
    """Draw the labels whose clips have the most false alarms; None without false alarms."""
    shown = [label for label in confusers or [] if label["false_alarms"]][:LABELS_SHOWN]
    if not shown:
        return None
    figure, (panel,) = panels_below_each_other(1, height=0.27 * len(shown))
    longest = 0  # letters next to a bar
    for row, label in enumerate(reversed(shown)):
        panel.barh(row, label["false_alarms"], height=0.62, color=FALSE)
        text = (
            f" {label['false_alarms']:,}, in {label['clips_with_false_alarm']:,} of {plural(label['clips'], 'clip')}"
        )
        longest = max(longest, len(text))
        panel.annotate(text, (label["false_alarms"], row), fontsize=8, va="center", color=TRUTH)
    panel.set_yticks(range(len(shown)), [shortened(label["name"]) for label in reversed(shown)])
    panel.set_ylim(-0.6, len(shown) - 0.4)
    whole_numbers(panel)
    panel.set_xlim(0, shown[0]["false_alarms"] / (1 - 0.012 * longest))
    panel.set_xlabel("false alarms in clips with the label (a clip counts under each of its labels)", fontsize=9)
    return figure


def shortened(name: str) -> str:
    """Return a label for an axis, shortened to NAME_LENGTH."""
    return literal(name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1].rstrip(", ") + "…")


def whole_numbers(panel: Axes) -> None:
    """Use whole numbers with thousands separators as ticks."""
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    panel.xaxis.set_major_formatter("{x:,.0f}")


def plot_composition(composition: dict[str, Any] | None) -> Figure | None:
    """Draw the windows planned and served, one pair of bars per part of the batch; None without any."""
    if composition is None or not sum(composition["planned"].values()):
        return None
    figure, (panel,) = panels_below_each_other(1, height=1.7)
    for offset, key, colour in ((0.2, "planned", OTHERS), (-0.2, "served", MODEL)):
        counts = [composition[key].get(part, 0) for part in PARTS][::-1]  # a part with share 0 is missing
        places = np.arange(len(PARTS)) + offset
        panel.barh(places, counts, height=0.36, color=colour, label=key)
        for place, count in zip(places, counts, strict=True):
            share = f", {100 * count / sum(counts):.3g} %" if sum(counts) else ""
            panel.annotate(f" {count:,}{share}", (count, place), fontsize=8, va="center", color=TRUTH)
    panel.set_yticks(range(len(PARTS)), list(PARTS.values())[::-1])
    whole_numbers(panel)
    panel.set_xlim(0, 1.25 * max(max(composition[key].values()) for key in ("planned", "served")))
    panel.set_xlabel("windows, over all epochs", fontsize=9)
    legend_above(panel)
    return figure


def plot_coverage(coverage: dict[str, Any] | None) -> Figure | None:
    """Draw the number of negative labels that were served in training as one bar; None without labels."""
    if coverage is None or not coverage["labels"]:
        return None
    seen, missed = coverage["seen"], coverage["labels"] - coverage["seen"]
    figure, (panel,) = panels_below_each_other(1, height=0.32)
    panel.barh(0, seen, height=0.8, color=MODEL, label=f"served, {seen:,}")
    panel.barh(0, missed, left=seen, height=0.8, color=FAINT, label=f"never served, {missed:,}")
    panel.set_yticks([])
    panel.set_xlim(0, coverage["labels"])
    whole_numbers(panel)
    panel.set_xlabel("labels of the negatives", fontsize=9)
    legend_above(panel)
    return figure


def plot_mining(history: Sequence[dict[str, Any]] | None) -> Figure | None:
    """Draw the counts of mined negatives and their mean score over epochs; None without mining."""
    if not history:
        return None
    figure, (counts, means) = panels_below_each_other(2, sharey=False)
    epochs = [entry["epoch"] for entry in history]
    for key, label, colour, dash in (
        ("scored", "negatives scored", OTHERS, ".-"),
        ("hard", "hard: above the mining threshold", FALSE, ".-"),
        ("tier_b_from_mining", "served again in tier B", MODEL, ".-"),
        ("quarantined", "quarantined: suspected missing labels", TRUTH, ".:"),
    ):
        values = np.array([entry.get(key) for entry in history], dtype=float)
        if np.isnan(values).all():  # not recorded
            continue
        counts.plot(epochs, values, dash, color=colour, linewidth=1.3, markersize=5, label=label)
    counts.set_yscale("symlog", linthresh=1)  # a log scale that also shows 0
    counts.set_ylim(bottom=0)
    counts.yaxis.set_major_formatter("{x:,.0f}")
    counts.set_ylabel("windows", fontsize=9)
    counts.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    scores = np.array([entry["mean_score"] for entry in history], dtype=float)  # NaN if nothing was scored
    means.plot(epochs, scores, ".-", color=OTHERS, linewidth=1.3, markersize=5)
    means.set_ylim(bottom=0)
    means.set_ylabel("mean score of the\nnegatives scored", fontsize=9)
    for panel in (counts, means):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
    means.set_xlabel("epoch", fontsize=9)
    return figure
