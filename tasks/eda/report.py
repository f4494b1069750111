"""Sections of the report and the card of the eda task."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from huggingface_hub import EvalResult
from matplotlib.figure import Figure

from reporting.card import CardMetadata, eval_result
from reporting.cells import counted
from reporting.common import limits, opening, training_in_card, training_section, versions_in_card, warnings
from reporting.sections import Part, Picture, Section, Table
from reporting.texts import SHARED
from tasks.eda.plots import (
    plot_absence,
    plot_bands,
    plot_null,
    plot_over_time,
    plot_response,
    plot_scores,
    plot_trials,
)
from tasks.eda.results import SCORES, TEXTS, all_scores, scores, verdict

HUB_NAMES = {"rmse": "rmse", "pearson": "pearsonr", "ccc": "ccc", "detrended_pearson": "pearsonr"}
NO_TRIAL = "no trial has a score"


def sections(facts: dict[str, Any], predictions: pa.Table | None) -> list[Section]:
    """Return all sections of the report and of the card. Only the report needs the predictions."""
    test, channels = facts["test"], facts["test"]["channels"]
    trained = "training" in facts
    return [
        Section(
            "",
            [
                *warnings(facts, "trials"),
                *([TEXTS("purpose", facts=facts)] if trained else []),
                opening(facts, TEXTS.line("about", test=test)),
                *(verdict(test, name) for name in channels),
            ],
        ),
        Section(
            "Scores",
            [
                *(part for name in channels for part in scores(test, name)),
                TEXTS("scores_explained"),
                SHARED("rule", rule=next(iter(channels.values()))["verdict"]["rule"]),
                *(score_picture(test, name) for name in channels),
            ],
        ),
        Section("All scores of the model", [all_scores(test, name) for name in channels], in_card=False),
        Section("Predicted and recorded", [trials_picture(name, predictions) for name in channels], in_card=False),
        Section("Mismatched songs", [null_picture(test, name) for name in channels], in_card=False),
        Section("Error over time", [over_time_picture(test, name) for name in channels], in_card=False),
        *explanations(test),
        *([training_section(facts, "Losses are in scaled units.")] if trained else []),
        data_in_page(facts),
        *(card_sections(facts) if trained else []),
        limits(TEXTS("limits")),
    ]


def card_metadata(facts: dict[str, Any]) -> CardMetadata:
    return CardMetadata(["audio", "skin-conductance", "electrodermal-activity"], results=eval_results(facts))


def eval_results(facts: dict[str, Any]) -> list[EvalResult]:
    """Return the scores in the form that the Hub reads, without those that are undefined."""
    task, test, results = ("time-series-forecasting", "skin conductance from sound"), facts["test"], []
    for channel, found in test["channels"].items():
        details = {"channel": channel, "over": found["interval_over"], "verdict": found["verdict"]["verdict"]}
        for heading, name in SCORES:
            metric, score = (HUB_NAMES[name], f"{channel} {heading.format(unit=test['unit'])}"), found["model"][name]
            if score["mean"] is not None:
                results.append(eval_result(facts, task, metric, score, details | {"score": name}))
    return results


def card_sections(facts: dict[str, Any]) -> list[Section]:
    """Return the sections that only the card has."""
    data = facts["data"]
    parts = [TEXTS("data_in_card", facts=facts), TEXTS("left_out", data=data), SHARED("licence")]
    return [
        Section("Data", parts, in_page=False),
        Section("Use", [TEXTS("usage", facts=facts)], in_page=False),
        training_in_card(facts),
        versions_in_card(facts),
    ]


def score_picture(test: dict[str, Any], name: str) -> Picture:
    draw = partial(plot_scores, test["channels"][name], name)
    return Picture(f"scores_{name}", TEXTS("scores_caption", name=name), draw)


def trials_picture(name: str, predictions: pa.Table | None) -> Picture:
    def draw() -> Figure | None:
        rows = [] if predictions is None else [row for row in predictions.to_pylist() if row["channel"] == name]
        trials = best_median_worst(rows)
        return plot_trials(trials) if trials else None

    return Picture(f"trials_{name}", TEXTS("trials_caption"), draw, NO_TRIAL)


def null_picture(test: dict[str, Any], name: str) -> Picture:
    def draw() -> Figure | None:
        channel = test["channels"][name]
        return None if channel["null"] is None else plot_null(channel["null"], channel["ceiling"])

    return Picture(f"null_{name}", TEXTS("null_caption"), draw, NO_TRIAL)


def over_time_picture(test: dict[str, Any], name: str) -> Picture:
    draw = partial(plot_over_time, test["channels"][name]["over_time"], test["unit"])
    return Picture(f"over_time_{name}", TEXTS("over_time_caption"), draw, NO_TRIAL)


def explanations(test: dict[str, Any]) -> list[Section]:
    """Return what the model responds to, if the run was asked for it."""
    pictures = [
        picture
        for name, channel in test["channels"].items()
        if channel.get("explanations") is not None
        for picture in explanations_of(name, channel["explanations"])
    ]
    return [Section("Response to the sound", pictures, in_card=False)] if pictures else []


def explanations_of(name: str, found: dict[str, Any]) -> list[Picture]:
    """Return the explanations of one channel."""
    caption = TEXTS("response_caption", songs=found["response"]["songs"])
    pictures = [
        Picture(f"response_{name}", caption, partial(plot_response, found["response"])),
        Picture(f"bands_{name}", TEXTS("bands_caption"), partial(plot_bands, found["bands"])),
    ]
    if found["absence"] is not None:
        pictures.append(Picture(f"absence_{name}", TEXTS("absence_caption"), partial(plot_absence, found["absence"])))
    return pictures


def best_median_worst(rows: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return titles and rows of three trials (fewer, if there are fewer), ordered by their r after detrending."""
    scored = sorted(
        (row for row in rows if row["detrended_pearson"] is not None), key=lambda row: -row["detrended_pearson"]
    )
    ranks = {"best": 0, "median": len(scored) // 2, "worst": len(scored) - 1}
    if len(scored) < len(ranks):
        ranks = {f"trial {rank + 1}": rank for rank in range(len(scored))}
    return [
        (
            f"{title}: song {scored[rank]['song_id']}, listener {scored[rank]['listener']}, "
            f"r = {scored[rank]['detrended_pearson']:.2f}",
            scored[rank],
        )
        for title, rank in ranks.items()
    ]


def data_in_page(facts: dict[str, Any]) -> Section:
    """Return the splits, and what was left out of the data, by reason."""
    data = facts["data"]
    kinds = ("trials", "songs", "listeners")
    splits = [[name, *(f"{split[kind]}" for kind in kinds)] for name, split in data["sides"].items() if name != "all"]
    lost = [
        ["songs left out", counted(data["songs_left_out"])],
        ["trials rejected", counted(data["trials_rejected"])],
        ["trials whose song and listener are in different splits", f"{data['trials_between_sides']}"],
        ["notes on trials that are kept", counted(data["notes"])],
        ["listeners scaled by the statistics of all", ", ".join(data["listeners_scaled_by_everyone"]) or "none"],
    ]
    parts: list[Part] = [TEXTS("recorded", facts=facts), Table(["split", *kinds], splits)]
    parts += [Table(["left out, or worth a note", "count"], lost), SHARED("files", data=data)]
    return Section("Data", parts, in_card=False)
