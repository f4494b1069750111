"""The parts of a model: how many numbers each has, and its learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

# The kind of each part of our models, for a reader; the other parts have their names alone.
KINDS = {"fusion": "Layer", "emotion": "Classifier", "sentiment": "Classifier", "regression": "Head"}


def sizes_of_parts(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Count the trainable and the frozen numbers of each part; a model without `parts()` has its layers."""
    of_model: Any = getattr(model, "parts", None)
    layers = {name: list(layer.parameters()) for name, layer in model.named_children()}
    counts = {}
    for name, parameters in (layers if of_model is None else of_model()).items():
        trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        counts[name] = trainable, sum(parameter.numel() for parameter in parameters) - trainable
    return counts


def describe_sizes(model: PreTrainedModel) -> str:
    """A line for each part, with its trainable and its frozen numbers, and one for all of them."""
    sizes = sizes_of_parts(model)
    kinds = KINDS | dict.fromkeys(getattr(model.config, "modalities", ()), "Encoder")
    titles = {name: f"{name.replace('_', ' ').title()} {kinds.get(name, '')}".rstrip() for name in sizes}
    lines = [f"- {titles[name] + ':':22} {count:>11,} {frozen:>11,}" for name, (count, frozen) in sizes.items()]
    trainable, frozen = (sum(counts) for counts in zip(*sizes.values(), strict=True))
    head = f"  {'parameters':22} {'trainable':>11} {'frozen':>11}"
    return "\n".join([head, *lines, f"  {'total:':22} {trainable:>11,} {frozen:>11,}"])


def groups_of_parts(
    parts: Mapping[str, Sequence[torch.nn.Parameter]], rates: Mapping[str, float], training: TrainingArguments
) -> list[dict[str, Any]]:
    """Return groups of an optimizer: one for the weights and one for the rest of each part.

    Args:
        rates: by part; the other parts have the run's `learning_rate`. Biases and norms have no weight decay.
    """
    trained = {name: [p for p in parameters if p.requires_grad] for name, parameters in parts.items()}
    trained = {name: parameters for name, parameters in trained.items() if parameters}
    unknown = sorted(rates.keys() - trained.keys())
    if unknown:
        raise ValueError(
            f"learning_rates={', '.join(unknown)}: the model trains no part of that name. Name {', '.join(trained)}."
        )
    groups = []
    for name, parameters in trained.items():
        rate = rates.get(name, training.learning_rate)
        for matrices, decay in ((True, training.weight_decay), (False, 0.0)):
            kept = [parameter for parameter in parameters if (parameter.ndim > 1) == matrices]
            if kept:
                groups.append({"params": kept, "lr": rate, "weight_decay": decay, "name": name})
    return groups
