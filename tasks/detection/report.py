"""report.html of a detector: what it finds, where it is wrong, and what it was trained on."""

import html
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from reporting.card import flat, number, warnings
from reporting.page import (
    files,
    images,
    inline,
    markdown_tables,
    opening,
    page,
    settings,
    shown,
    sides,
    split_facts,
    substitutions,
    text_table,
    training_facts,
    with_images,
)
from reporting.plots import plot_learning
from system.text import plural
from tasks.detection.card import (
    LIMITS,
    RULE,
    SCORES_EXPLAINED,
    about,
    encoder_share,
    mined,
    operating_line,
    remarks,
    score_table,
    verdict_line,
)
from tasks.detection.plots import (
    plot_composition,
    plot_confusers,
    plot_coverage,
    plot_mining,
    plot_precision_recall,
    plot_score_histogram,
    plot_timelines,
)

CLASSES_SHOWN = 10  # of the thinning, on each side
NAMES_SHOWN = 30  # of labels that were never served


def report_files(facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table) -> dict[str, str | bytes]:
    """`report.html` and its figures by file name, from a run's record, which has the timelines, and its settings."""
    figures = images(draw_figures(facts))
    return with_images(report(facts, config, figures), figures)


def draw_figures(facts: dict[str, Any]) -> dict[str, tuple[Figure | None, str]]:
    """Figure and caption by name, in the order of the page."""
    test, training = facts["test"], facts.get("training")
    threshold = test["threshold"]["value"]
    drawn = {
        "precision_recall": (
            plot_precision_recall(test),
            "Precision against recall over all thresholds. Precision depends on the share of positives, which is the "
            "level of chance.",
        ),
        "scores": (
            plot_score_histogram(test["histogram"], threshold),
            "Scores of the clips. Grey right of the threshold are false alarms, black left of it is missed.",
        ),
        "timelines": (
            plot_timelines(test["timelines"], threshold),
            "Score over time in some clips, above where the target is by strong labels (black) and what was detected "
            "at the threshold (dashed): blue, or red where it meets no event.",
        ),
        "confusers": (
            plot_confusers(test["confusers"]),
            "Labels of the clips in which the detector gave false alarms. Some of these may be right, and the label "
            "of the target missing.",
        ),
    }
    if training is None:
        return drawn
    return drawn | {
        "learning": (plot_learning(training), "Learning curves; losses are binary cross-entropies."),
        "composition": (plot_composition(training["composition"]), "Parts of the batches, as planned and as served."),
        "coverage": (plot_coverage(training["coverage"]), "How many labels of the negatives came up in training."),
        "mining": (
            plot_mining(training["mining"]),
            "Mining of hard negatives. Quarantined ones scored so high for so long that they probably hold the target "
            "without its label; they are not served again.",
        ),
    }  # fmt: skip


def report(facts: dict[str, Any], config: dict[str, Any], figures: dict[str, tuple[bytes, str]]) -> str:
    """The page; whatever comes from data is escaped."""
    test = facts["test"]
    parts = [
        *opening(facts, about(test), warnings(facts, "clips")),
        f'<p class="verdict">{inline(verdict_line(test))}<br>{inline(operating_line(test))}</p>',
        "<h2>Scores</h2>",
        f"<p>{html.escape(SCORES_EXPLAINED)}</p>",
        markdown_tables(score_table(test)),
        *(f"<p>{inline(remark)}</p>" for remark in remarks(test)),
        *map(markdown_tables, encoder_share(test)),
        f"<p>The rule of the verdict: {html.escape(RULE)}.</p>",
        shown("precision_recall", figures, "recall is undefined without a clip that holds the target"),
        shown("scores", figures, "no clip was scored"),
        "<h2>Some clips</h2>",
        shown("timelines", figures, "no clip has a timeline"),
        "<h2>False alarms</h2>",
        shown("confusers", figures, "there is no false alarm at the threshold"),
        *training_section(facts, figures),
        "<h2>Data</h2>",
        data_section(facts),
        "<h2>Limits</h2>",
        f"<p>{html.escape(LIMITS)}</p>",
        *settings(facts, config),
    ]
    return page(facts["name"], parts)


def training_section(facts: dict[str, Any], figures: dict[str, tuple[bytes, str]]) -> list[str]:
    """How the model came to be, if it was trained in this run: curves, what was served, and what was mined."""
    if "training" not in facts:
        return []
    training = facts["training"]
    return [
        "<h2>Training</h2>",
        training_facts(facts),
        f"<p>{html.escape(length_line(training.get('length')))}</p>",
        shown("learning", figures, "nothing was logged"),
        "<h3>What was served</h3>",
        f"<p>{html.escape(served_line(training['composition']))}</p>",
        shown("composition", figures, "nothing was served"),
        f"<p>{html.escape(coverage_line(training['coverage']))}</p>",
        shown("coverage", figures, "there is no label"),
        substitutions(training["substitutions"]),
        "<h3>Mining</h3>",
        f"<p>{html.escape(mined(training))}</p>",
        *([shown("mining", figures)] if training["mining"] else []),
    ]


def length_line(length: dict[str, Any] | None) -> str:
    """How often the positives were passed over."""
    if length is None:
        return "How often each positive came was not recorded."
    return (
        f"Planned: {plural(length['steps'], 'optimizer step')} of {plural(length['positives_per_step'], 'positive')} "
        f"each: {length['passes']:.1f} passes over {plural(length['positives'], 'positive')}."
    )


def served_line(composition: dict[str, Any] | None) -> str:
    """What the parts of the batches do not tell."""
    if composition is None:
        return "What was served was not recorded."
    return (
        f"Of the windows that were served, {composition['hard']:,} were mined as hard, {composition['explicit']:,} "
        f"are of moments where a person checked that the target is absent, {composition['substituted']:,} stood in "
        "for one whose file could not be read (same kind, same label), and "
        f"{composition['mixed']:,} were mixed with one that holds the target, so that they count for no part."
    )


def coverage_line(coverage: dict[str, Any] | None) -> str:
    """How many labels came up, what the plan promises, and which never came."""
    if coverage is None:
        return "Which labels came up was not recorded."
    never = coverage["never"]
    more = f" and {len(never) - NAMES_SHOWN} more" if len(never) > NAMES_SHOWN else ""
    missed = f" Never: {', '.join(never[:NAMES_SHOWN])}{more}." if never else ""
    return (
        f"Served: {coverage['seen']:,} of {plural(coverage['labels'], 'label')} of the negatives; the plan brings "
        f"each at least once in {plural(coverage['rounds'], 'epoch')}.{missed}"
    )


def data_section(facts: dict[str, Any]) -> str:
    """Sides and hash of the split, and what was left out of the data, by reason and by rule."""
    data = facts["data"]
    clips = [[kind.replace("_", " "), number(count)] for kind, count in flat(data["clips"]).items()]
    rules = [[rule["rule"], number(rule["clips"])] for rule in data["rules"]]
    return "\n".join(
        [
            f"<p>{plural(data['rows'], 'clip')} in the data. {split_facts(facts['split'])}</p>",
            sides(data),
            text_table(["clips, and windows that can be drawn", "number"], clips),
            text_table(["rule, in the order of application", "clips left out"], rules),
            thinning(data["trim"]),
            files(data),
        ]
    )


def thinning(trim: Sequence[dict[str, Any]]) -> str:
    """What thinning the commonest sounds left of the largest classes, and of those that lost most."""
    changed = [label for label in trim if label["after"] < label["before"]]
    if not changed:
        return "<p>The commonest sounds were not thinned.</p>"
    largest = sorted(trim, key=lambda label: -label["before"])[:CLASSES_SHOWN]
    most = sorted(changed, key=lambda label: (label["after"] / label["before"], -label["before"]))[:CLASSES_SHOWN]
    tables = [
        text_table(
            [heading, "clips before", "after", "kept"],
            [[label["name"], number(label["before"]), number(label["after"]), kept(label)] for label in labels],
        )
        for heading, labels in (("thinning: the largest classes", largest), ("the classes that lost most", most))
    ]
    return f"<p>Thinning changed {len(changed):,} of {len(trim):,} classes.</p>\n" + "\n".join(tables)


def kept(label: dict[str, Any]) -> str:
    """The share of a class that is left."""
    return f"{100 * label['after'] / label['before']:.1f} %" if label["before"] else ""
