"""The model card: the sections of a report that belong to the model, below the metadata that the Hub reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from reporting.sections import Section, escape, joined


@dataclass(frozen=True)
class CardMetadata:
    """What the Hub shows of a model."""

    tags: Sequence[str]
    pipeline: str | None = None  # the Hub's name of the task, if it has one
    results: Sequence[EvalResult] = field(default_factory=list)  # scores, shown next to the model


def model_card(facts: dict[str, Any], metadata: CardMetadata, sections: Sequence[Section]) -> str:
    """Return the README.md of a saved model."""
    parts = [front_matter(facts, metadata), f"# {escape(facts['name'])}"]
    for section in sections:
        if section.in_card:
            parts += [*([f"## {section.title}"] if section.title else []), joined(section.parts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(facts: dict[str, Any], metadata: CardMetadata) -> str:
    """Return the metadata of a card in YAML."""
    synthetic = ["synthetic-data"] if facts["data"]["synthetic"] else []
    tags = [*metadata.tags, facts["model"]["model_type"], *synthetic]
    fields = [
        "library_name: transformers",
        *([f"pipeline_tag: {metadata.pipeline}"] if metadata.pipeline else []),
        "license: other",
        "license_name: data-of-the-training-set",
        "tags:",
        *(f"- {tag}" for tag in tags),
    ]
    if metadata.results:
        fields.append(ModelCardData(model_name=facts["name"], eval_results=list(metadata.results)).to_yaml())
    return "\n".join(["---", *fields, "---"])


def eval_result(
    facts: dict[str, Any],
    task: tuple[str, str],
    metric: tuple[str, str],
    score: dict[str, Any],
    details: dict[str, str],
) -> EvalResult:
    """Return a score of the test split in the form that the Hub reads, with its interval.

    Args:
        task, metric: the Hub's type, and a name for people.
        details: what else identifies the score.
    """
    data = facts["data"]
    bounds = {key: round(score[key], 4) for key in ("low", "high")} if score["low"] is not None else {}
    return EvalResult(
        task_type=task[0],
        task_name=task[1],
        dataset_type=data["dataset"],
        dataset_name=f"{data['dataset']}{' (SYNTHETIC)' if data['synthetic'] else ''}",
        dataset_config=data["config"],
        dataset_split="test",
        metric_type=metric[0],
        metric_name=metric[1],
        metric_value=round(score["mean"], 4),
        metric_args=details | {"level": 0.95} | bounds,
    )
