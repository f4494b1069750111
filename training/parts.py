"""Count the parameters of each part of a model, and give each part its learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

# Noun that follows the name of a part in the printed table. Other parts are printed by name only.
PART_NOUNS = {"fusion": "Layer", "emotion": "Classifier", "sentiment": "Classifier", "regression": "Head"}


def sizes_of_parts(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Return the trainable and frozen parameters of each part: of `model.parts()`, or else of its submodules."""
    parts: Any = getattr(model, "parts", None)
    submodules = {name: list(module.parameters()) for name, module in model.named_children()}
    counts = {}
    for name, parameters in (submodules if parts is None else parts()).items():
        trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        counts[name] = trainable, sum(parameter.numel() for parameter in parameters) - trainable
    return counts


def describe_sizes(model: PreTrainedModel) -> str:
    """Return a table of the trainable and frozen parameters, with one line per part and a total."""
    sizes = sizes_of_parts(model)
    nouns = PART_NOUNS | dict.fromkeys(getattr(model.config, "modalities", ()), "Encoder")
    titles = {name: f"{name.replace('_', ' ').title()} {nouns.get(name, '')}".rstrip() for name in sizes}
    lines = [f"- {titles[name] + ':':22} {count:>11,} {frozen:>11,}" for name, (count, frozen) in sizes.items()]
    trainable, frozen = (sum(counts) for counts in zip(*sizes.values(), strict=True))
    head = f"  {'parameters':22} {'trainable':>11} {'frozen':>11}"
    return "\n".join([head, *lines, f"  {'total:':22} {trainable:>11,} {frozen:>11,}"])


def groups_of_parts(
    parts: Mapping[str, Sequence[torch.nn.Parameter]], rates: Mapping[str, float], training: TrainingArguments
) -> list[dict[str, Any]]:
    """Return optimizer groups: for each part, one with weight decay (matrices) and one without (biases and norms).

    Args:
        rates: learning rate by part. The other parts use the run's `learning_rate`.
    """
    trained = {name: [p for p in parameters if p.requires_grad] for name, parameters in parts.items()}
    trained = {name: parameters for name, parameters in trained.items() if parameters}
    unknown = sorted(rates.keys() - trained.keys())
    if unknown:
        raise ValueError(
            f"learning_rates={', '.join(unknown)}: the model has no trainable part with this name. "
            f"Give one of {', '.join(trained)}."
        )
    groups = []
    for name, parameters in trained.items():
        rate = rates.get(name, training.learning_rate)
        # Biases and norm scales have one dimension. As is usual, they get no weight decay.
        for matrices, decay in ((True, training.weight_decay), (False, 0.0)):
            group = [parameter for parameter in parameters if (parameter.ndim > 1) == matrices]
            if group:
                groups.append({"params": group, "lr": rate, "weight_decay": decay, "name": name})
    return groups
