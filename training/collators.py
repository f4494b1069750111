"""From items to a padded batch."""

from dataclasses import dataclass

import numpy as np
import torch

from modeling.layers import IGNORE_LABEL


@dataclass(frozen=True)
class SignalCollator:
    """Pads songs and targets to the longest of the batch, with a mask over what is real.

    >>> a = {"input_features": np.ones((3, 2), "float32"), "labels": np.ones((3, 1), "float32")}
    >>> b = {"input_features": np.ones((2, 2), "float32"), "labels": np.ones((2, 1), "float32")}
    >>> batch = SignalCollator()([a, b])
    >>> batch["attention_mask"]
    tensor([[1, 1, 1],
            [1, 1, 0]])
    >>> batch["labels"].squeeze(-1)
    tensor([[   1.,    1.,    1.],
            [   1.,    1., -100.]])
    """

    def __call__(self, items: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Items hold `input_features` (T, F) and `labels` (T, C), where labels that do not count are IGNORE_LABEL."""
        longest = max(len(item["input_features"]) for item in items)
        features = items[0]["input_features"].shape[1]
        channels = items[0]["labels"].shape[1]
        input_features = torch.zeros(len(items), longest, features)  # (B, T, F)
        labels = torch.full((len(items), longest, channels), IGNORE_LABEL)  # (B, T, C)
        attention_mask = torch.zeros(len(items), longest, dtype=torch.int64)  # (B, T)
        for row, item in enumerate(items):
            frames = len(item["input_features"])
            input_features[row, :frames] = torch.from_numpy(item["input_features"])
            labels[row, :frames] = torch.from_numpy(item["labels"])
            attention_mask[row, :frames] = 1
        return {"input_features": input_features, "attention_mask": attention_mask, "labels": labels}
