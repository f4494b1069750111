"""Collate items of different lengths into a batch."""

from dataclasses import dataclass

import numpy as np
import torch

from modeling.layers import IGNORE_LABEL


@dataclass(frozen=True)
class SignalCollator:
    """Pad features and labels to the longest item of the batch, and mask the padding.

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
        """Collate items with `input_features` (T, F) and `labels` (T, C). Padded labels are IGNORE_LABEL."""
        longest = max(len(item["input_features"]) for item in items)
        features, channels = items[0]["input_features"].shape[1], items[0]["labels"].shape[1]
        input_features = np.zeros((len(items), longest, features), np.float32)  # (B, T, F)
        labels = np.full((len(items), longest, channels), IGNORE_LABEL, np.float32)  # (B, T, C)
        attention_mask = np.zeros((len(items), longest), np.int64)  # (B, T)
        for row, item in enumerate(items):
            frames = len(item["input_features"])
            input_features[row, :frames] = item["input_features"]
            labels[row, :frames] = item["labels"]
            attention_mask[row, :frames] = 1
        batch = {"input_features": input_features, "attention_mask": attention_mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in batch.items()}
