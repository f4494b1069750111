"""Sections of the report and the card of a model of attention."""

from typing import Any

import pyarrow as pa
from huggingface_hub import EvalResult
from matplotlib.figure import Figure

from reporting.card import CardMetadata, eval_result
from reporting.cells import cell, number
from reporting.common import (
    data_in_card,
    limits,
    opening,
    policies_and_notes,
    split_table,
    training_in_card,
    training_section,
    versions_in_card,
    warnings,
)
from reporting.sections import Picture, Section, Table
from reporting.texts import SHARED
from tasks.attention.plots import plot_compared, plot_predicted, plot_removals, plot_residuals
from tasks.attention.results import NAMES, TEXTS, heading_of, modalities, score_table, verdict

HUB_NAMES = {"spearman": "spearmanr", "pearson": "pearsonr", "r2": "r_squared", "mae": "mae", "rmse": "rmse"}
NOT_ABLATED = "the model was not scored with fewer modalities, or R2 is undefined"


def sections(facts: dict[str, Any], predictions: pa.Table | None) -> list[Section]:
    """Return all sections of the report and of the card. Only the report needs the predictions."""
    test = facts["test"]
    trained = "training" in facts
    names = [name.replace("_", " ") for name in facts["model"]["modalities"]] if trained else []
    compared = Picture("compared", TEXTS("compared_caption"), lambda: plot_compared(test))
    removals = Picture("removals", TEXTS("removals_caption"), lambda: plot_removals(test), NOT_ABLATED)
    return [
        Section(
            "",
            [
                *warnings(facts, "creatives"),
                *([TEXTS("purpose", facts=facts, modalities=names)] if trained else []),
                opening(facts, TEXTS.line("about", test=test)),
                verdict(test),
                SHARED("rows_scored", test=test),
            ],
        ),
        Section(
            "Scores",
            [
                score_table(test),
                TEXTS("scores_explained"),
                SHARED("rule", rule=test["verdict"]["rule"]),
                compared,
            ],
        ),
        Section("Modalities", [modalities(test), SHARED("rule", rule=test["modalities"]["rule"]), removals]),
        predicted_section(test, predictions),
        *([training_section(facts, "")] if trained else []),
        data_in_page(facts),
        *(card_sections(facts) if trained else []),
        limits(TEXTS("limits")),
    ]


def card_metadata(facts: dict[str, Any]) -> CardMetadata:
    multimodal = ["multimodal"] if len(facts["model"]["modalities"]) > 1 else []
    return CardMetadata(["regression", "attention-prediction", "embeddings", *multimodal], results=eval_results(facts))


def eval_results(facts: dict[str, Any]) -> list[EvalResult]:
    """Return the scores in the form that the Hub reads, without those that are undefined."""
    test, task = facts["test"], ("multimodal-regression", "attention of creatives")
    return [
        eval_result(
            facts,
            task,
            (HUB_NAMES[name], heading_of(name, test["unit"])),
            test["scores"][name],
            {"score": name, "over": "creatives"},
        )
        for name in NAMES
        if test["scores"][name]["mean"] is not None
    ]


def card_sections(facts: dict[str, Any]) -> list[Section]:
    """Return the sections that only the card has."""
    sizes = {name: facts["model"]["embedding_sizes"][name] for name in facts["model"]["modalities"]}
    return [
        data_in_card(facts),
        Section("Use", [TEXTS("usage", facts=facts, sizes=sizes)], in_page=False),
        training_in_card(facts),
        versions_in_card(facts),
    ]


def predicted_section(test: dict[str, Any], predictions: pa.Table | None) -> Section:
    """Return predictions against measurements, and errors by fifths of the measured attention."""
    unit = test["unit"]
    rows = [
        [
            f"{part['from']:.3g} to {part['to']:.3g}",
            number(part["rows"]),
            cell(part["residual"]),
            f"{part['mae']:.3f}",
        ]
        for part in test["residuals"]
    ]
    headings = [f"measured ({unit})", "creatives", f"predicted minus measured ({unit})", f"MAE ({unit})"]

    def draw_predicted() -> Figure | None:
        if predictions is None:
            return None
        targets, values = (predictions[column].to_numpy() for column in ("target", "prediction"))
        return plot_predicted(targets, values, unit)

    parts = [
        TEXTS("levels", test=test),
        Picture("predicted", TEXTS("predicted_caption"), draw_predicted),
        Picture("residuals", TEXTS("residuals_caption"), lambda: plot_residuals(test["residuals"], unit)),
        Table(headings, rows),
    ]
    return Section("Predicted and measured", parts, in_card=False)


def data_in_page(facts: dict[str, Any]) -> Section:
    """Return the splits, and how incomplete rows were treated."""
    data = facts["data"]
    parts = [SHARED("recorded", facts=facts, noun="creative"), split_table(data), *policies_and_notes(data)]
    return Section("Data", [*parts, SHARED("files", data=data)], in_card=False)
