"""Parts of reports and cards that several tasks share."""

import json
from collections.abc import Sequence
from typing import Any

from reporting.cells import cell, flat, number
from reporting.plots import plot_learning
from reporting.sections import Notice, Part, Picture, Section, Table, escape
from reporting.texts import SHARED

SUBSTITUTIONS_SHOWN = 20
KEYS_FOR_PROGRAMS = ("target_scaling", "auto_map", "custom_pipelines")  # of a model's configuration


def warnings(facts: dict[str, Any], items: str) -> list[Notice]:
    """Return what a reader must know before any score.

    These are synthetic data, a split that leaks, a control experiment, and a base model that may have been trained on
    the test items.
    """
    data, base = facts["data"], facts.get("base")
    texts = [SHARED("synthetic_notice")] if data["synthetic"] else []
    texts += [SHARED("warning", text=text) for text in (data["split_warning"], data["control"]) if text]
    if base and base["test_trials_it_was_trained_on"] is None:
        texts.append(SHARED("base_unknown", base=base, items=items))
    elif base and base["test_trials_it_was_trained_on"]:
        texts.append(SHARED("base_known", base=base, items=items))
    if facts["test"].get("note"):
        texts.append(escape(facts["test"]["note"]))
    return [Notice(text) for text in texts]


def opening(facts: dict[str, Any], about: str) -> str:
    """Return which split of which data set was scored."""
    return SHARED("opening", facts=facts, about=about)


def training_section(facts: dict[str, Any], losses: str, more: Sequence[Part] = ()) -> Section:
    """Return how the model of a run was trained, for the page.

    Args:
        losses: a sentence on the losses in the learning curves.
        more: parts that only this task has.
    """
    training = facts["training"]
    return Section(
        "Training",
        [
            SHARED("training", facts=facts),
            *([SHARED("undecodable", times=training["undecodable"])] if training.get("undecodable") else []),
            SHARED("scored_once"),
            learning_picture(training, losses),
            *more,
            *substitutions(training.get("substitutions")),
        ],
        in_card=False,
    )


def learning_picture(training: dict[str, Any], losses: str) -> Picture:
    """Return the learning curves."""
    caption = SHARED("learning_caption", losses=losses)
    return Picture("learning", caption, lambda: plot_learning(training), "nothing was logged")


def training_in_card(facts: dict[str, Any], more: Sequence[Part] = ()) -> Section:
    """Return how the model was trained, and its configuration, for the card."""
    configuration = {key: value for key, value in facts["model"].items() if key not in KEYS_FOR_PROGRAMS}
    listing = f"```json\n{json.dumps(configuration, indent=2)}\n```"
    parts = [SHARED("training_in_card", facts=facts), SHARED("scored_once"), *more, listing]
    return Section("Training", parts, in_page=False)


def limits(*texts: str) -> Section:
    return Section("Limits", texts)


def versions_in_card(facts: dict[str, Any]) -> Section:
    return Section("Versions", [SHARED("versions", facts=facts)], in_page=False)


def substitutions(clips: Sequence[dict[str, Any]] | None) -> list[Part]:
    """Return the clips that could not be read in training, the most often requested first."""
    if not clips:
        return []
    most = sorted(clips, key=lambda clip: -clip["times"])
    rows = [
        [clip["clip_id"], number(clip["times"]), clip["reason"] or "readable later"]
        for clip in most[:SUBSTITUTIONS_SHOWN]
    ]
    more = len(most) - len(rows)
    rest = [SHARED("more_substitutions", count=more)] if more else []
    return [Table(["unreadable clip", "times", "reason"], rows), *rest]


def split_table(data: dict[str, Any]) -> Table:
    """Return one row per split, with one column per kind of count that any of them has."""
    counts = {name: flat(split) for name, split in data["sides"].items()}
    kinds = list(dict.fromkeys(kind for split in counts.values() for kind in split))
    rows = [[name, *(number(split.get(kind, "")) for kind in kinds)] for name, split in counts.items()]
    return Table(["split", *(kind.replace("_", " ") for kind in kinds)], rows)


def data_in_card(facts: dict[str, Any]) -> Section:
    """Return data set, splits, policies and licence for the card."""
    data = facts["data"]
    policies = [escape(policy) for policy in data.get("policies", [])]
    parts = [
        SHARED("data_in_card", facts=facts),
        *policies,
        SHARED("left_out", data=data),
        SHARED("licence"),
    ]
    return Section("Data", parts, in_page=False)


def policies_and_notes(data: dict[str, Any]) -> list[Part]:
    """Return how incomplete rows were treated, and how many there are by reason."""
    parts: list[Part] = [escape(policy) for policy in data.get("policies", [])]
    for key, heading in (("left_out", "left out"), ("notes", "note on rows")):
        rows = [[reason, number(count)] for reason, count in sorted(data.get(key, {}).items())]
        parts.append(Table([heading, "rows"], rows))
    return parts


def compared_table(
    title: str,
    columns: Sequence[tuple[str, str]],
    scores: dict[str, Any],
    rivals: dict[str, dict[str, Any]],
    gain: tuple[str, str],
) -> Table:
    """Return one row for the model and each rival: their scores, and the model's gain over the rival.

    Args:
        columns: heading and score.
        scores: the model's.
        rivals: scores and differences, by label.
        gain: the last heading, and the score whose difference it shows.
    """
    rows = []
    for label, rival in {"model": {"scores": scores}, **rivals}.items():
        difference = cell(rival["difference"][gain[1]]) if "difference" in rival else ""
        rows.append([label, *(cell(rival["scores"][score]) for _, score in columns), difference])
    return Table([title, *(heading for heading, _ in columns), gain[0]], rows)
