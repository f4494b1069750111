"""Figures of a classifier of utterances, from the record of its scores."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reporting.plots import (
    FAINT,
    MODEL,
    OTHERS,
    TRUTH,
    WIDTH,
    draw_scores,
    legend_above,
    literal,
    panels_below_each_other,
)

COLOURS = {"model": MODEL, "tfidf": OTHERS, "majority": FAINT, "dealt": "#a3bcdb"}  # the last is a pale MODEL
LABELS = {"dealt": "shuffled predictions", "tfidf": "TF-IDF"}  # names that differ from the record's keys
CELL = 0.55  # inches, of a confusion matrix
DARK = 0.6  # share of a row; a cell above it has white text


def plot_confusion(head: str, found: dict[str, Any]) -> Figure:
    """Draw counts of utterances by label (rows) and prediction (columns), coloured by their share of the row."""
    counts = np.array(found["confusion"])  # (K, K)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [literal(name) for name in found["classes"]]
    side = CELL * len(names)
    figure = Figure(figsize=(min(side + 2.2, WIDTH), min(side + 1.3, WIDTH)), layout="constrained")
    panel = figure.subplots()
    panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count:,}\n{100 * share[row, column]:.0f} %"
        colour = "white" if share[row, column] >= DARK else TRUTH
        panel.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    panel.set_xticks(range(len(names)), names, rotation=40, ha="right")
    panel.set_yticks(range(len(names)), names)
    panel.tick_params(labelsize=8, length=0)
    panel.spines[:].set_visible(False)
    panel.set_xlabel(f"predicted {head}", fontsize=9)
    panel.set_ylabel(f"labelled {head}", fontsize=9)
    return figure


def plot_classes(heads: dict[str, Any]) -> Figure:
    """Draw the F1 of each class, the most common at the top, of the model and its baselines; one panel per head."""
    longest = max(len(found["classes"]) for found in heads.values())
    figure, panels = panels_below_each_other(len(heads), height=0.42 * longest + 0.4, sharey=False)
    for panel, (head, found) in zip(panels, heads.items(), strict=True):
        order = sorted(found["classes"], key=lambda name: found["per_class"][name]["support"])
        who = {"model": {name: each["f1"] for name, each in found["per_class"].items()}}
        who |= {rival: each["per_class"] for rival, each in found["baselines"].items()}
        height = 0.8 / len(who)
        for place, (label, scores) in enumerate(who.items()):
            offset = height * ((len(who) - 1) / 2 - place)
            values = [scores[name] for name in order]
            name = LABELS.get(label, label)
            panel.barh(np.arange(len(order)) + offset, values, height=height, color=COLOURS[label], label=name)
        for place, name in enumerate(order):
            if not found["per_class"][name]["predicted"]:
                panel.annotate(" never predicted", (0, place + height * (len(who) - 1) / 2), fontsize=7, va="center")
        ticks = [f"{literal(name)} ({found['per_class'][name]['support']:,})" for name in order]
        panel.set_yticks(range(len(order)), ticks)
        panel.set_xlim(0, 1)
        panel.set_xlabel(f"{head}: F1 (in brackets: rows)", fontsize=9)
        legend_above(panel)
    return figure


def plot_ablations(heads: dict[str, Any]) -> Figure:
    """Draw weighted F1 of the model, its baselines, and the model with fewer modalities, with intervals."""
    rivals: dict[str, dict[str, Any]] = {
        head: found["baselines"] | found["ablations"] for head, found in heads.items()
    }
    most = 1 + max(len(others) for others in rivals.values())
    figure, panels = panels_below_each_other(len(heads), height=0.27 * most + 0.3, sharey=False)
    for panel, (head, others) in zip(panels, rivals.items(), strict=True):
        scores = {"model": heads[head]["scores"]["weighted_f1"]}
        scores |= {literal(LABELS.get(who, who)): rival["scores"]["weighted_f1"] for who, rival in others.items()}
        draw_scores(panel, scores)
        panel.axvline(scores["model"]["mean"], color=FAINT, linewidth=0.8, zorder=0)
        panel.set_xlim(left=min(0, panel.get_xlim()[0]))
        panel.set_xlabel(f"{head}: weighted F1, with 95 % intervals over dialogues", fontsize=9)
    return figure


def plot_calibration(heads: dict[str, Any]) -> Figure:
    """Draw accuracy against confidence; the area of a dot is its share of the rows."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panels = figure.subplots(1, len(heads), squeeze=False)[0]
    for panel, (head, found) in zip(panels, heads.items(), strict=True):
        bins = found["calibration"]
        rows = np.array(bins["rows"])
        known = rows > 0
        confidence, right = (np.array(bins[key], dtype=float)[known] for key in ("confidence", "right"))
        panel.plot([0, 1], [0, 1], color=TRUTH, linewidth=0.8, linestyle=":")
        panel.plot(confidence, right, color=MODEL, linewidth=1)
        panel.scatter(confidence, right, 10 + 300 * rows[known] / rows.sum(), color=MODEL, alpha=0.6, linewidths=0)
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        panel.set_aspect("equal")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.set_title(f"{head}, error {bins['expected_error']:.3f}", fontsize=9, loc="left")
        panel.set_xlabel("confidence (highest probability)", fontsize=9)
        panel.set_ylabel("share of correct predictions", fontsize=9)
    return figure
