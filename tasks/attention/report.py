"""report.html of a model of attention: how near it comes, whether simpler ones come as near, and what it needs."""

import html
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from reporting.card import cell, number, rows_line
from reporting.page import (
    files,
    images,
    inline,
    markdown_tables,
    opening,
    page,
    policies_and_notes,
    settings,
    shown,
    sides,
    split_facts,
    text_table,
    training_section,
    with_images,
)
from reporting.plots import plot_learning
from system.text import plural
from tasks.attention.card import (
    LIMITS,
    SCORES_EXPLAINED,
    about,
    level_line,
    modalities_line,
    notices,
    score_table,
    verdict_line,
)
from tasks.attention.plots import plot_compared, plot_predicted, plot_removals, plot_residuals


def report_files(facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table) -> dict[str, str | bytes]:
    """`report.html` and its figures by file name, from a run's record, its settings and its predictions, which have
    columns `target` and `prediction`.
    """
    figures = images(draw_figures(facts, predictions))
    return with_images(report(facts, config, figures), figures)


def draw_figures(facts: dict[str, Any], predictions: pa.Table) -> dict[str, tuple[Figure | None, str]]:
    """Figure and caption by name."""
    test = facts["test"]
    targets, said = (predictions[column].to_numpy() for column in ("target", "prediction"))
    drawn: dict[str, tuple[Figure | None, str]] = {
        "predicted": (
            plot_predicted(targets, said, test["unit"]),
            "Predicted over measured, a dot a creative; on the dotted line they are equal.",
        ),
        "compared": (
            plot_compared(test),
            "The model beside what it has to beat, and beside itself with less to go by. The grey line is the model.",
        ),
        "removals": (
            plot_removals(test),
            "What the model, as it was trained, loses with less to go by: its own R2 less that of the row.",
        ),
        "residuals": (
            plot_residuals(test["residuals"], test["unit"]),
            "What is predicted too much or too little, by fifths of what was measured. A model that is unsure stays "
            "near the mean: too high on the left, too low on the right.",
        ),
    }
    if "training" in facts:
        drawn["learning"] = plot_learning(facts["training"]), "Learning curves."
    return drawn


def report(facts: dict[str, Any], config: dict[str, Any], figures: dict[str, tuple[bytes, str]]) -> str:
    """The page; whatever comes from data is escaped."""
    test = facts["test"]
    parts = [
        *opening(facts, about(test), notices(facts)),
        f'<p class="verdict">{inline(verdict_line(test))}</p>',
        f"<p>{html.escape(rows_line(test))}</p>",
        "<h2>Scores</h2>",
        f"<p>{html.escape(SCORES_EXPLAINED)}</p>",
        markdown_tables(score_table(test)),
        f"<p>The rule of the verdict: {html.escape(test['verdict']['rule'])}.</p>",
        shown("compared", figures),
        "<h2>Modalities</h2>",
        f"<p>{inline(modalities_line(test))}</p>",
        f"<p>The rule: {html.escape(test['modalities']['rule'])}.</p>",
        shown("removals", figures, "the model was not scored with less to go by, or no R2 is defined"),
        "<h2>Predicted and measured</h2>",
        f"<p>{html.escape(level_line(test))}</p>",
        shown("predicted", figures),
        shown("residuals", figures),
        residual_table(test),
        *training_section(facts, figures),
        "<h2>Data</h2>",
        data_section(facts),
        "<h2>Limits</h2>",
        f"<p>{html.escape(LIMITS)}</p>",
        *settings(facts, config),
    ]
    return page(facts["name"], parts)


def residual_table(test: dict[str, Any]) -> str:
    """The fifths of the measured attention, and how far off the model is in each."""
    unit = test["unit"]
    rows = [
        [
            f"{part['from']:.3g} to {part['to']:.3g}",
            number(part["rows"]),
            cell(part["residual"], 3),
            f"{part['mae']:.3f}",
        ]
        for part in test["residuals"]
    ]
    return text_table([f"measured ({unit})", "creatives", f"predicted less measured ({unit})", f"MAE ({unit})"], rows)


def data_section(facts: dict[str, Any]) -> str:
    """Sides and hash of the split, and what was done about rows that are not whole."""
    data = facts["data"]
    first = f"<p>{plural(data['rows'], 'creative')} in the data. {split_facts(facts['split'])}</p>"
    return "\n".join([first, sides(data), *policies_and_notes(data), files(data)])
