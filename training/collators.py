"""Collate items into a padded batch."""

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class PaddingCollator:
    """Items of one set of names to a batch: what has a length is padded to the longest, with zeros, masks too.

    >>> a = {"text_embeddings": torch.ones(2, 3), "text_mask": torch.ones(2).long(), "labels": torch.tensor(0.5)}
    >>> b = {"text_embeddings": torch.ones(1, 3), "text_mask": torch.ones(1).long(), "labels": torch.tensor(2.0)}
    >>> batch = PaddingCollator()([a, b])
    >>> batch["text_embeddings"].shape, batch["text_mask"].tolist(), batch["labels"].tolist()
    (torch.Size([2, 2, 3]), [[1, 1], [1, 0]], [0.5, 2.0])
    """

    pad_token_id: int = 0  # what `input_ids` are padded with

    def __call__(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Tensors that differ, if at all, in their first dimension; numbers (B,) of scalars."""
        batch = {}
        for name in items[0]:
            values = [item[name] for item in items]
            filling = self.pad_token_id if name == "input_ids" else 0
            batch[name] = pad_sequence(values, True, filling) if values[0].ndim else torch.stack(values)
        return batch
