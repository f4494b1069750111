"""report.html of a classifier of utterances: what it tells apart, what it never says, and by which modality."""

import html
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from reporting.card import number, rows_line, warnings
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
from tasks.emotion.card import (
    SCORES_EXPLAINED,
    about,
    calibration_line,
    class_table,
    consistency_line,
    limits,
    repeated_line,
    repeated_lines,
    rule,
    score_table,
    verdict_line,
)
from tasks.emotion.plots import plot_ablations, plot_calibration, plot_classes, plot_confusion


def report_files(facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table) -> dict[str, str | bytes]:
    """`report.html` and its figures by file name, from a run's record and its settings; these show no single row."""
    figures = images(draw_figures(facts))
    return with_images(report(facts, config, figures), figures)


def draw_figures(facts: dict[str, Any]) -> dict[str, tuple[Figure | None, str]]:
    """Figure and caption by name."""
    heads = facts["test"]["heads"]
    drawn: dict[str, tuple[Figure | None, str]] = {
        f"confusion_{head}": (
            plot_confusion(head, found),
            f"What each {head} was taken for: utterances, and their share of the row.",
        )
        for head, found in heads.items()
    }
    drawn |= {
        "classes": (plot_classes(heads), "F1 of each class beside that of the baselines, the commonest class on top."),
        "ablations": (
            plot_ablations(heads),
            "The model beside what it has to beat, and beside itself with less to go by. The grey line is the model.",
        ),
        "calibration": (
            plot_calibration(heads),
            "How often the model is right over how sure it is. Below the dotted line it is too sure.",
        ),
    }
    if "training" in facts:
        drawn["learning"] = (
            plot_learning(facts["training"]),
            "Learning curves; the loss is that of all heads together.",
        )
    return drawn


def report(facts: dict[str, Any], config: dict[str, Any], figures: dict[str, tuple[bytes, str]]) -> str:
    """The page; whatever comes from data is escaped."""
    test = facts["test"]
    heads = test["heads"]
    verdicts = "<br>".join(inline(verdict_line(head, found)) for head, found in heads.items())
    parts = [
        *opening(facts, about(test), [*warnings(facts, "utterances"), *([test["note"]] if test.get("note") else [])]),
        f'<p class="verdict">{verdicts}</p>',
        f"<p>{html.escape(rows_line(test))}</p>",
        "<h2>Scores</h2>",
        f"<p>{html.escape(SCORES_EXPLAINED)}</p>",
        *(markdown_tables(score_table(test, head)) for head in heads),
        f"<p>The rule of the verdict: {html.escape(rule(test))}.</p>",
        shown("ablations", figures),
        "<h2>Classes</h2>",
        *(markdown_tables(class_table(head, found)) for head, found in heads.items()),
        shown("classes", figures),
        *(shown(f"confusion_{head}", figures) for head in heads),
        *repeated(test),
        *contradictions(test),
        "<h2>Calibration</h2>",
        f"<p>{html.escape(calibration_line(test))}</p>",
        shown("calibration", figures),
        *training_section(facts, figures),
        "<h2>Data</h2>",
        data_section(facts),
        "<h2>Limits</h2>",
        f"<p>{html.escape(limits(facts['data']))}</p>",
        *settings(facts, config),
    ]
    return page(facts["name"], parts)


def repeated(test: dict[str, Any]) -> list[str]:
    """Texts of the test that stand in training too, and the scores without them."""
    if test["repeated_texts"] is None:
        return []
    tables = [markdown_tables(block) for head in test["heads"] for block in repeated_lines(test, head)]
    return ["<h2>Texts that stand in training too</h2>", f"<p>{html.escape(repeated_line(test))}</p>", *tables]


def contradictions(test: dict[str, Any]) -> list[str]:
    """Where the two heads contradict each other."""
    if test["consistency"] is None:
        return []
    rows = [[pair["emotion"], pair["sentiment"], number(pair["rows"])] for pair in test["consistency"]["pairs"]]
    pairs = text_table(["emotion", "sentiment that does not go with it", "rows"], rows) if rows else ""
    return ["<h2>Emotion against sentiment</h2>", f"<p>{html.escape(consistency_line(test))}</p>", pairs]


def data_section(facts: dict[str, Any]) -> str:
    """Sides and hash of the split, classes of each side, and what was done about rows that are not whole."""
    data = facts["data"]
    parts = [f"<p>{plural(data['rows'], 'utterance')} in the data. {split_facts(facts['split'])}</p>", sides(data)]
    for head, found in facts["test"]["heads"].items():
        counts = zip(found["classes"], found["counts"]["train"], found["counts"]["test"], strict=True)
        rows = [[f"{code}", name, number(train), number(test)] for code, (name, train, test) in enumerate(counts)]
        parts.append(text_table(["code", head, "in training", "scored"], rows))
    return "\n".join([*parts, *policies_and_notes(data), files(data)])
