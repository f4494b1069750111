"""The table of a study: CSV for programs, Markdown for the terminal, HTML for people."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from reporting.cells import score_cell
from reporting.page import page_files
from reporting.plots import draw_scores, literal, panels_below_each_other
from reporting.sections import Picture, Section, Table, joined
from reporting.texts import TEMPLATES, Texts
from system.text import safe_cell

TEXTS = Texts(TEMPLATES / "study.md.jinja")


def study_files(study: dict[str, Any]) -> dict[str, str | bytes]:
    """Return `table.csv`, `.md`, `.html` and its figure, and `study.csv` with one row per run, channel and score."""
    rows = [{**row, "clusters": row["clusters"] and str(row["clusters"])} for row in study["rows"]]
    for row in rows:
        difference = row.pop("difference") or {}
        row |= {f"difference_{key}": difference.get(key) for key in ("mean", "low", "high")}
    picture = Picture("settings", TEXTS("settings_caption"), lambda: plot_settings(study["rows"]))
    section = Section("", [score_table(study), *captions(study), picture])
    return {
        "study.csv": comma_separated(study["runs"]),
        "table.csv": comma_separated(rows),
        "table.md": study_table(study) + "\n",
        **page_files("table.html", f"Study of {study['config']}", [section], wide=True),
    }


def study_table(study: dict[str, Any]) -> str:
    """Return the table in Markdown, with its captions below."""
    return joined([score_table(study), *captions(study)])


def captions(study: dict[str, Any]) -> list[str]:
    """Return what a reader of the table must know."""
    return [
        TEXTS("about", study=study),
        *([TEXTS("synthetic")] if study["synthetic"] else []),
        *([TEXTS("choice")] if study["settings"] > 1 else []),
        *(TEXTS("warning", text=text) for text in study["warnings"]),
    ]


def plot_settings(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw one panel per channel and score, with a dot on its interval for each setting."""
    panels_of: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        panels_of.setdefault((row["channel"], row["score"]), {})[row["setting"]] = row
    height = 0.27 * max(map(len, panels_of.values())) + 0.4  # inches
    figure, panels = panels_below_each_other(len(panels_of), height, sharey=False)
    for panel, ((channel, score), of_setting) in zip(panels, panels_of.items(), strict=True):
        draw_scores(panel, of_setting)
        panel.set_yticklabels([literal(setting) for setting in reversed(of_setting)])  # keys keep their underscores
        panel.set_xlabel(literal(f"{channel}: {score.replace('_', ' ')}, mean and 95 % interval"), fontsize=9)
    return figure


def comma_separated(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows with the same keys as CSV; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows({key: safe_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def score_table(study: dict[str, Any]) -> Table:
    """Return one row per setting, channel and score; the column of verdicts only for tasks that have them."""
    channel, scored = study["items"]
    headings = ["setting", channel, "score", "runs", scored, "mean", "spread over seeds", "difference"]
    headings += ["effects", "validation"]
    rows = [cells_of(row) for row in study["rows"]]
    if all(row["effects"] is None for row in study["rows"]):
        headings, *rows = ([*line[:-2], line[-1]] for line in (headings, *rows))
    return Table(headings, rows)


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return all cells of one row as text."""
    spread, validation = row["spread_over_seeds"], row["validation"]
    return [
        row["setting"],
        row["channel"],
        row["score"].replace("_", " "),
        f"{row['runs']}",
        f"{row['trials']}",
        score_cell(row),
        "" if spread is None else f"{spread:.3f}",
        "" if row["difference"] is None else score_cell(row["difference"]),
        f"{row['effects']} of {row['runs']}",
        "" if validation is None else f"{validation:.4g}",
    ]
