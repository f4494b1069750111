"""Report page of the eda task."""

import html
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from reporting.card import counted, warnings
from reporting.page import (
    files,
    images,
    inline,
    markdown_tables,
    opening,
    page,
    settings,
    shown,
    split_facts,
    text_table,
    training_facts,
    with_images,
)
from reporting.plots import plot_learning
from system.text import plural
from tasks.eda.card import LIMITS, SCORES_EXPLAINED, results_table, verdict_line
from tasks.eda.plots import (
    plot_absence,
    plot_bands,
    plot_null,
    plot_over_time,
    plot_response,
    plot_scores,
    plot_trials,
)


def report_files(facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table) -> dict[str, str | bytes]:
    """`report.html` and its figures by file name, from a run's record, its settings and its predictions."""
    figures = images(draw_figures(facts, predictions))
    return with_images(report(facts, config, figures), figures)


def draw_figures(facts: dict[str, Any], predictions: pa.Table) -> dict[str, tuple[Figure | None, str]]:
    """Figure and caption by name; a channel's are named after it."""
    drawn: dict[str, tuple[Figure | None, str]] = {}
    test = facts["test"]
    for name, channel in test["channels"].items():
        caption = "The model beside what it has to beat and what bounds it."
        drawn[f"scores_{name}"] = plot_scores(channel, name), caption
        rows = [row for row in predictions.to_pylist() if row["channel"] == name]
        shown = best_median_worst(rows)
        if shown:
            caption = "The best, the median and the worst trial by r after detrending. A mean hides all three."
            drawn[f"trials_{name}"] = plot_trials(shown), caption
        if channel["null"] is not None:
            caption = (
                "Sounds permuted among songs of about the same length: how well the model scores then (some songs "
                "keep their own sound), beside its score with the right sounds and its mean with wrong ones alone."
            )
            drawn[f"null_{name}"] = plot_null(channel["null"], channel["ceiling"]), caption
        caption = "Error against the time since onset, over frames of all trials: late frames stand on few trials."
        drawn[f"over_time_{name}"] = plot_over_time(channel["over_time"], test["unit"]), caption
        for kind, explanation in draw_explanations(channel.get("explanations")).items():
            drawn[f"{kind}_{name}"] = explanation
    if "training" in facts:
        drawn["learning"] = plot_learning(facts["training"]), "Learning curves; losses are in scaled units."
    return drawn


def draw_explanations(found: dict[str, Any] | None) -> dict[str, tuple[Figure | None, str]]:
    """Figure and caption of each explanation, in the order of the page."""
    if found is None:
        return {}
    drawn: dict[str, tuple[Figure | None, str]] = {
        "response": (
            plot_response(found["response"]),
            "Temporal response of ridge regression: what a descriptor of the sound does to the signal, and when; "
            f"shaded: 95 % intervals over {found['response']['songs']} training songs.",
        ),
        "bands": (
            plot_bands(found["bands"]),
            "What the model loses when a band of its input is replaced by the training's mean.",
        ),
    }
    if found["absence"] is not None:
        said = "How much the prediction changes when a moment of the sound is replaced by the training's mean."
        drawn["absence"] = plot_absence(found["absence"]), said
    return drawn


def best_median_worst(rows: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Titles and rows of three trials (fewer, if there are fewer), ordered by their r after detrending."""
    scored = sorted(
        (row for row in rows if row["detrended_pearson"] is not None), key=lambda row: -row["detrended_pearson"]
    )
    places = {"best": 0, "median": len(scored) // 2, "worst": len(scored) - 1}
    if len(scored) < len(places):
        places = {f"trial {place + 1}": place for place in range(len(scored))}
    return [
        (
            f"{name}: song {scored[place]['song_id']}, listener {scored[place]['listener']}, "
            f"r = {scored[place]['detrended_pearson']:.2f}",
            scored[place],
        )
        for name, place in places.items()
    ]


def report(facts: dict[str, Any], config: dict[str, Any], figures: dict[str, tuple[bytes, str]]) -> str:
    """The page; whatever comes from data is escaped."""
    test = facts["test"]
    about = (
        f"{plural(test['trials'], 'trial')} of {plural(test['songs'], 'song')} and "
        f"{plural(test['listeners'], 'listener')}, in {test['unit']}"
    )
    parts = [
        *opening(facts, about, [*warnings(facts), *([test["note"]] if test["note"] else [])]),
        *(
            f'<p class="verdict">{inline(verdict_line(channel["verdict"]))} <small>({html.escape(name)})</small></p>'
            for name, channel in test["channels"].items()
        ),
        "<h2>Scores</h2>",
        f"<p>{html.escape(SCORES_EXPLAINED)}</p>",
        markdown_tables(results_table(test)),
        f"<p>The rule: {html.escape(next(iter(test['channels'].values()))['verdict']['rule'])}.</p>",
        *(shown(f"scores_{name}", figures) for name in test["channels"]),
        "<h3>All scores of the model</h3>",
        *(all_scores(name, channel, test["unit"]) for name, channel in test["channels"].items()),
        "<h2>Predicted and recorded</h2>",
        *(shown(f"trials_{name}", figures) for name in test["channels"]),
        "<h2>The wrong song</h2>",
        *(shown(f"null_{name}", figures) for name in test["channels"]),
        "<h2>Error over time</h2>",
        *(shown(f"over_time_{name}", figures) for name in test["channels"]),
        *explained(test, figures),
        *(["<h2>Training</h2>", training_facts(facts), shown("learning", figures)] if "training" in facts else []),
        "<h2>Data</h2>",
        data_facts(facts),
        "<h2>Limits</h2>",
        f"<p>{html.escape(LIMITS)}</p>",
        *settings(facts, config),
    ]
    return page(facts["name"], parts)


def all_scores(name: str, channel: dict[str, Any], unit: str) -> str:
    """Every score of the model, also those that the first table leaves out."""
    in_unit = {"rmse", "mae", "detrended_rmse"}
    rows = []
    for score, found in channel["model"].items():
        label = f"{score.replace('_', ' ')}{f' ({unit})' if score in in_unit else ''}"
        mean = "undefined" if found["mean"] is None else f"{found['mean']:z.3f}"
        interval = found["reason"] or "" if found["low"] is None else f"[{found['low']:z.3f}, {found['high']:z.3f}]"
        rows.append([label, mean, interval, f"{found['trials']}", f"{found['undefined']}"])
    return text_table([name, "mean", "95 % interval", "trials", "undefined"], rows)


def explained(test: dict[str, Any], figures: dict[str, tuple[bytes, str]]) -> list[str]:
    """The section on what the model listens to, if it was asked for."""
    names = [f"{kind}_{name}" for name in test["channels"] for kind in ("response", "bands", "absence")]
    drawn = [shown(name, figures) for name in names if name in figures]
    return ["<h2>What it listens to</h2>", *drawn] if drawn else []


def data_facts(facts: dict[str, Any]) -> str:
    """Sides and hash of the split, and what was left out of the data, by reason."""
    data = facts["data"]
    sides = [
        [name, *(f"{side[kind]}" for kind in ("trials", "songs", "listeners"))]
        for name, side in data["sides"].items()
        if name != "all"
    ]
    lost = [
        ["songs left out", counted(data["songs_left_out"])],
        ["trials rejected", counted(data["trials_rejected"])],
        ["trials between sides", f"{data['trials_between_sides']}"],
        ["notes on trials that are kept", counted(data["notes"])],
        ["listeners scaled by everyone's statistics", ", ".join(data["listeners_scaled_by_everyone"]) or "none"],
    ]
    return "\n".join(
        [
            f"<p>{plural(data['songs'], 'song')} and {plural(data['trials'], 'trial')} as recorded. "
            f"{split_facts(facts['split'])}</p>",
            text_table(["side", "trials", "songs", "listeners"], sides),
            text_table(["left out, or worth a note", ""], lost),
            files(data),
        ]
    )
