"""Collate items into a padded batch."""

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class PaddingCollator:
    """Stack items with the same keys into a batch. Sequences and their masks are zero-padded to the longest one.

    >>> a = {"text_embeddings": torch.ones(2, 3), "text_mask": torch.ones(2).long(), "labels": torch.tensor(0.5)}
    >>> b = {"text_embeddings": torch.ones(1, 3), "text_mask": torch.ones(1).long(), "labels": torch.tensor(2.0)}
    >>> batch = PaddingCollator()([a, b])
    >>> batch["text_embeddings"].shape, batch["text_mask"].tolist(), batch["labels"].tolist()
    (torch.Size([2, 2, 3]), [[1, 1], [1, 0]], [0.5, 2.0])
    """

    pad_token_id: int = 0  # padding value for `input_ids`

    def __call__(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return tensors (B, T, ...) for items (T, ...) of different lengths T, and tensors (B,) for scalars."""
        batch = {}
        for name in items[0]:
            # Scalars, such as labels, have no length to pad.
            values = [item[name] for item in items]
            padding = self.pad_token_id if name == "input_ids" else 0
            batch[name] = pad_sequence(values, True, padding) if values[0].ndim else torch.stack(values)
        return batch
