"""Sections of the report and the card of a detector."""

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from huggingface_hub import EvalResult
from matplotlib.figure import Figure

from evaluation.verdict import SURE
from reporting.card import CardMetadata, eval_result
from reporting.cells import flat, number
from reporting.common import (
    limits,
    opening,
    split_table,
    training_in_card,
    training_section,
    versions_in_card,
    warnings,
)
from reporting.sections import Heading, Part, Picture, Section, Table
from reporting.texts import SHARED
from tasks.detection.plots import (
    plot_composition,
    plot_confusers,
    plot_coverage,
    plot_mining,
    plot_precision_recall,
    plot_score_histogram,
    plot_timelines,
)
from tasks.detection.results import SCORES, TEXTS, scores, verdict

CLASSES_SHOWN = 10  # in each table of thinned classes
NAMES_SHOWN = 30  # of labels that were never served


def sections(facts: dict[str, Any]) -> list[Section]:
    """Return all sections of the report and of the card."""
    test = facts["test"]
    trained = "training" in facts
    threshold = test["threshold"]["value"]
    return [
        Section(
            "",
            [
                *warnings(facts, "clips"),
                *([TEXTS("purpose", facts=facts)] if trained else []),
                opening(facts, TEXTS.line("about", test=test)),
                verdict(test),
            ],
        ),
        Section(
            "Scores",
            [
                *scores(test),
                TEXTS("scores_explained"),
                TEXTS("rule", significance=SURE),
                picture(
                    "precision_recall",
                    lambda: plot_precision_recall(test),
                    "no clip has the target",
                ),
            ],
        ),
        Section(
            "Clips",
            [
                picture("scores", lambda: plot_score_histogram(test["histogram"], threshold), "no clip was scored"),
                picture("timelines", lambda: plot_timelines(test["timelines"], threshold), "no clip has a timeline"),
            ],
            in_card=False,
        ),
        Section(
            "False alarms",
            [picture("confusers", lambda: plot_confusers(test["confusers"]), "no false alarm at the threshold")],
            in_card=False,
        ),
        *([trained_section(facts)] if trained else []),
        data_in_page(facts),
        *(card_sections(facts) if trained else []),
        limits(TEXTS("limits")),
    ]


def picture(name: str, draw: Callable[[], Figure | None], otherwise: str) -> Picture:
    return Picture(name, TEXTS(f"{name}_caption"), draw, otherwise)


def card_metadata(facts: dict[str, Any]) -> CardMetadata:
    tags = ["audio-classification", "sound-event-detection", "audioset"]
    return CardMetadata(tags, "audio-classification", eval_results(facts))


def eval_results(facts: dict[str, Any]) -> list[EvalResult]:
    """Return the scores in the form that the Hub reads, without those that are undefined."""
    test, task = facts["test"], ("audio-classification", "sound detection")
    return [
        eval_result(facts, task, (score, heading), test["scores"][score], {"score": score, "over": "clips"})
        for heading, score, _ in SCORES
        if score in test["scores"] and test["scores"][score]["mean"] is not None
    ]


def card_sections(facts: dict[str, Any]) -> list[Section]:
    """Return the sections that only the card has."""
    command = f"python run_predict.py {shlex.quote(facts['name'])} recording.wav"
    data = [SHARED("data_in_card", facts=facts), TEXTS("clips_in_card", data=facts["data"]), SHARED("licence")]
    return [
        Section("Data", data, in_page=False),
        Section("Use", [TEXTS("usage", facts=facts, command=command)], in_page=False),
        training_in_card(facts, [TEXTS("mined", training=facts["training"])]),
        versions_in_card(facts),
    ]


def trained_section(facts: dict[str, Any]) -> Section:
    """Return how the model was trained: learning curves, what was served, and what was mined."""
    training = facts["training"]
    mining = [picture("mining", lambda: plot_mining(training["mining"]), "")] if training["mining"] else []
    return training_section(
        facts,
        "Losses are binary cross-entropies.",
        [
            TEXTS("length", length=training.get("length")),
            Heading("Batches"),
            TEXTS("served", composition=training["composition"]),
            picture("composition", lambda: plot_composition(training["composition"]), "nothing was served"),
            TEXTS("coverage", coverage=training["coverage"], names_shown=NAMES_SHOWN),
            picture("coverage", lambda: plot_coverage(training["coverage"]), "there is no label"),
            Heading("Mining"),
            TEXTS("mined", training=training),
            *mining,
        ],
    )


def data_in_page(facts: dict[str, Any]) -> Section:
    """Return the splits, and what was left out of the data, by reason and by rule."""
    data = facts["data"]
    clips = [[kind.replace("_", " "), number(count)] for kind, count in flat(data["clips"]).items()]
    rules = [[rule["rule"], number(rule["clips"])] for rule in data["rules"]]
    parts: list[Part] = [
        SHARED("recorded", facts=facts, noun="clip"),
        split_table(data),
        Table(["clips, and windows that can be drawn", "number"], clips),
        Table(["rule, in the order of application", "clips left out"], rules),
        *thinning(data["trim"]),
        SHARED("files", data=data),
    ]
    return Section("Data", parts, in_card=False)


def thinning(classes: Sequence[dict[str, Any]]) -> list[Part]:
    """Return how thinning changed the largest classes and those that lost the largest share."""
    changed = [label for label in classes if label["after"] < label["before"]]
    text = TEXTS("thinning", changed=len(changed), total=len(classes))
    if not changed:
        return [text]
    largest = sorted(classes, key=lambda label: -label["before"])[:CLASSES_SHOWN]
    most = sorted(changed, key=lambda label: (label["after"] / label["before"], -label["before"]))[:CLASSES_SHOWN]
    tables = [
        Table(
            [heading, "clips before", "after", "remaining"],
            [[label["name"], number(label["before"]), number(label["after"]), remaining(label)] for label in labels],
        )
        for heading, labels in (("largest classes", largest), ("classes that lost the largest share", most))
    ]
    return [text, *tables]


def remaining(label: dict[str, Any]) -> str:
    """Return the share of a class that is left."""
    return f"{100 * label['after'] / label['before']:.1f} %" if label["before"] else ""
