"""Sections of the report and the card of a classifier of utterances."""

import shlex
from typing import Any

from huggingface_hub import EvalResult

from reporting.card import CardMetadata, eval_result
from reporting.cells import number
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
from reporting.sections import Part, Picture, Section, Table
from reporting.texts import SHARED
from tasks.emotion.plots import plot_ablations, plot_calibration, plot_classes, plot_confusion
from tasks.emotion.results import (
    SCORES,
    TEXTS,
    class_table,
    contradictions,
    first_rule,
    repeated_texts,
    score_table,
    verdict,
)

# The Hub's name for a model of one modality; it has none for several.
PIPELINES = {"text": "text-classification", "audio": "audio-classification", "video": "video-classification"}


def sections(facts: dict[str, Any]) -> list[Section]:
    """Return all sections of the report and of the card."""
    test = facts["test"]
    heads = test["heads"]
    trained = "training" in facts
    ablations = Picture("ablations", TEXTS("ablations_caption"), lambda: plot_ablations(heads))
    classes = Picture("classes", TEXTS("classes_caption"), lambda: plot_classes(heads))
    calibration = Picture("calibration", TEXTS("calibration_caption"), lambda: plot_calibration(heads))
    losses = "The loss is that of all heads together."
    return [
        Section(
            "",
            [
                *warnings(facts, "utterances"),
                *([TEXTS("purpose", facts=facts)] if trained else []),
                opening(facts, TEXTS.line("about", test=test)),
                *(verdict(test, head) for head in heads),
                SHARED("rows_scored", test=test),
            ],
        ),
        Section(
            "Scores",
            [
                *(score_table(test, head) for head in heads),
                TEXTS("scores_explained"),
                SHARED("rule", rule=first_rule(test)),
                ablations,
            ],
        ),
        Section(
            "Classes",
            [
                *(class_table(test, head) for head in heads),
                classes,
                *(confusion_picture(head, found)
                  for head, found in heads.items()),
                *repeated_texts(test),
                *contradictions(test),
            ],
        ),
        Section("Calibration", [TEXTS("calibration", heads=heads), calibration]),
        *([training_section(facts, losses)] if trained else []),
        data_in_page(facts),
        *(card_sections(facts) if trained else []),
        limits(TEXTS("limits"), *([TEXTS("meld_limits")] if is_meld(facts["data"]) else [])),
    ]  # fmt: skip


def confusion_picture(head: str, found: dict[str, Any]) -> Picture:
    caption = TEXTS("confusion_caption", head=head)
    return Picture(f"confusion_{head}", caption, lambda: plot_confusion(head, found))


def is_meld(data: dict[str, Any]) -> bool:
    return "meld" in data["dataset"].lower() and not data["synthetic"]


def card_metadata(facts: dict[str, Any]) -> CardMetadata:
    modalities = facts["model"]["modalities"]
    pipeline = PIPELINES.get(modalities[0]) if len(modalities) == 1 else None
    tags = ["emotion-recognition", "sentiment-analysis", *(["multimodal"] if len(modalities) > 1 else [])]
    return CardMetadata(tags, pipeline, eval_results(facts, pipeline))


def eval_results(facts: dict[str, Any], pipeline: str | None) -> list[EvalResult]:
    """Return the scores in the form that the Hub reads."""
    heads = facts["test"]["heads"]
    task = pipeline or "multimodal-classification", f"{' and '.join(heads)} of utterances"
    return [
        eval_result(
            facts, task, ("accuracy" if name == "accuracy" else "f1", f"{head} {heading}"), found["scores"][name],
            {"head": head, "score": name, "over": "dialogues"},
        )
        for head, found in heads.items()
        for heading, name in SCORES
    ]  # fmt: skip


def card_sections(facts: dict[str, Any]) -> list[Section]:
    """Return the sections that only the card has."""
    modalities = facts["model"]["modalities"]
    has_text = "text" in modalities
    words = ["python", "run_predict.py", facts["name"], *(["clip.mp4"] if modalities != ["text"] else [])]
    command = shlex.join(words) + (' --text "What are you doing here?"' if has_text else "")
    return [
        data_in_card(facts),
        Section("Use", [TEXTS("usage", facts=facts, command=command, has_text=has_text)], in_page=False),
        training_in_card(facts),
        versions_in_card(facts),
    ]


def data_in_page(facts: dict[str, Any]) -> Section:
    """Return the splits, their classes, and how incomplete rows were treated."""
    data = facts["data"]
    parts: list[Part] = [SHARED("recorded", facts=facts, noun="utterance"), split_table(data)]
    for head, found in facts["test"]["heads"].items():
        counts = zip(found["classes"], found["counts"]["train"], found["counts"]["test"], strict=True)
        rows = [[f"{index}", name, number(train), number(test)] for index, (name, train, test) in enumerate(counts)]
        parts.append(Table(["code", head, "in training", "scored"], rows))
    return Section("Data", [*parts, *policies_and_notes(data), SHARED("files", data=data)], in_card=False)
