"""Learning rates by part of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainingArguments


def groups_of_parts(
    parts: Mapping[str, Sequence[torch.nn.Parameter]], rates: Mapping[str, float], training: TrainingArguments
) -> list[dict[str, Any]]:
    """Return groups of an optimizer: one for the weights and one for the rest of each part.

    Args:
        rates: by part; the other parts have the run's `learning_rate`. Biases and norms have no weight decay.
    """
    unknown = sorted(rates.keys() - parts.keys())
    if unknown:
        raise ValueError(f"learning_rates names {', '.join(unknown)}; the model's parts are {', '.join(parts)}")
    groups = []
    for name, parameters in parts.items():
        rate = rates.get(name, training.learning_rate)
        for matrices, decay in ((True, training.weight_decay), (False, 0.0)):
            kept = [parameter for parameter in parameters if (parameter.ndim > 1) == matrices]
            if kept:
                groups.append({"params": kept, "lr": rate, "weight_decay": decay, "name": name})
    return groups
