"""The table of a study: CSV for programs, Markdown for the terminal, HTML for people."""

import csv
import html
import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from reporting.card import plain, score_cell
from reporting.page import STYLE, images, shown, table
from reporting.plots import draw_scores, literal, panels_below_each_other
from system.text import plural, safe_cell


def study_files(found: dict[str, Any]) -> dict[str, str | bytes]:
    """`table.csv`, `.md` and `.html` with its figure, and `study.csv` with a row a run, channel, who and score."""
    figures = images({"settings": (plot_settings(found["rows"]), "Every score of each setting.")})
    rows = [{**row, "clusters": row["clusters"] and str(row["clusters"])} for row in found["rows"]]
    for row in rows:
        difference = row.pop("difference") or {}
        row |= {f"difference_{key}": difference.get(key) for key in ("mean", "low", "high")}
    return {
        "study.csv": comma_separated(found["runs"]),
        "table.csv": comma_separated(rows),
        "table.md": study_table(found) + "\n",
        "table.html": page(found, figures),
        "figure_settings.png": figures["settings"][0],
    }


def plot_settings(rows: Sequence[dict[str, Any]]) -> Figure:
    """A panel a channel and score, with a dot on its interval for each setting."""
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
    """Rows of the same keys as CSV; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows({key: safe_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def columns_of(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and the cells of each row as text; verdicts stand only where a task has them."""
    of, scored = found["items"]
    columns = [
        "setting",
        of,
        "score",
        "runs",
        scored,
        "mean",
        "spread over seeds",
        "difference",
        "effects",
        "validation",
    ]
    rows = [cells_of(row) for row in found["rows"]]
    if all(row["effects"] is None for row in found["rows"]):
        columns, *rows = ([*line[:-2], line[-1]] for line in (columns, *rows))
    return columns, rows


def cells_of(row: dict[str, Any]) -> list[str]:
    """All cells of one row, as text."""
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


def captions(found: dict[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    lines = [f"{found['config']}, {found['finished']} of {plural(found['planned'], 'run')}. {found['explained']}"]
    if found["synthetic"]:
        lines.append("SYNTHETIC DATA: these scores say nothing about people, music or recorded sound.")
    if found["settings"] > 1:
        lines.append("WARNING: the setting with the best test score flatters itself; choose by the validation column.")
    return [*lines, *(f"WARNING: {text}." for text in found["warnings"])]


def study_table(found: dict[str, Any]) -> str:
    """The table as Markdown, captions below."""
    columns, rows = columns_of(found)
    head, *lines = (f"| {' | '.join(row)} |" for row in (columns, *([plain(cell) for cell in row] for row in rows)))
    lines = [head, "|---" * len(columns) + "|", *lines]
    return "\n".join(lines) + "\n\n" + "\n\n".join(captions(found))


def page(found: dict[str, Any], figures: dict[str, tuple[bytes, str]]) -> str:
    """The table and its figure as one HTML file."""
    columns, rows = columns_of(found)
    rows = [[html.escape(cell) for cell in row] for row in rows]
    said = "\n".join(f"<p>{html.escape(line)}</p>" for line in captions(found))
    title = html.escape(f"Study of {found['config']}")
    wide = STYLE.replace("max-width: 50rem", "max-width: 80rem")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{wide}</style>'
        f"</head>\n<body><h1>{title}</h1>\n{table(columns, rows)}\n{said}\n{shown('settings', figures)}\n"
        "</body></html>\n"
    )
