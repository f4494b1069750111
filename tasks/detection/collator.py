"""Collate audio windows into a batch of features."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import BatchFeature

from tasks.detection.augmentation import Augmentation

# Columns of a window that are not model inputs. Training windows have all but `readable`; evaluation windows have only
# `seed` and `readable`.
COLUMNS = {"item": np.int64, "requested": np.int64, "seed": np.int64, "readable": np.bool_}


class SoundExtractor(Protocol):
    """A transformers feature extractor for audio."""

    sampling_rate: int  # Hz
    model_input_names: list[str]

    def __call__(self, sounds: list[np.ndarray], /, *, sampling_rate: int, return_tensors: str) -> BatchFeature: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class DetectionCollator:
    """Collate windows into a batch of features with a model's extractor, optionally with mixup and masks.

    The extractor is `AudioFeatureExtractor` or any transformers extractor that accepts a list of sounds. The batch
    holds its outputs under their own names; masks need features (B, T, F). `mixed` marks windows mixed with a
    window that holds the target: their scores say nothing about their items. Windows with a negative seed are not
    augmented.

    >>> settings = {"sampling_rate": 16000, "n_fft": 512, "hop_length": 320, "num_mel_bins": 64, "frame_rate": None}
    >>> rain = {"audio": np.zeros(16000, "float32"), "label": 0.0, "item": 7, "requested": 7, "seed": 3}
    >>> cry = {"audio": np.ones(16000, "float32"), "label": 1.0, "item": 9, "requested": 8, "seed": 4}
    >>> batch = DetectionCollator(AudioFeatureExtractor(**settings))([rain, cry])
    >>> batch["input_features"].shape, batch["attention_mask"].shape
    (torch.Size([2, 51, 64]), torch.Size([2, 51]))
    >>> batch["labels"]
    tensor([[0.],
            [1.]])
    >>> batch["item"], batch["requested"], batch["seed"], batch["mixed"]
    (tensor([7, 9]), tensor([7, 8]), tensor([3, 4]), tensor([False, False]))
    """

    extractor: SoundExtractor
    augmentation: Augmentation | None = None

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate windows of equal length from `AudioSetWindows` or `ClipWindows`.

        `labels` are (B, 1) float32; `mixed` and the COLUMNS that the windows have are (B,).
        """
        if "embeddings" in items[0]:
            return embedded_batch(items)
        rate = self.extractor.sampling_rate
        for item in items:
            if item.get("sampling_rate", rate) != rate:
                raise ValueError(
                    f"sampling_rate={item['sampling_rate']}: the extractor expects {rate} Hz. Use the same rate for "
                    "both."
                )
        audio = np.stack([item["audio"] for item in items])  # (B, S)
        labels = np.array([item["label"] for item in items], np.float32)  # (B,)
        columns = columns_of(items)
        seeds = columns["seed"].tolist()
        columns["mixed"] = np.zeros(len(items), bool)
        if self.augmentation is not None:
            partners = self.augmentation.mixup_partners(seeds)
            # With a partner without the target, the score still describes the item.
            columns["mixed"] = (partners >= 0) & (labels[partners] > 0)
            audio, labels = self.augmentation.mix(audio, labels, seeds)
        batch = dict(self.extractor(list(audio), sampling_rate=rate, return_tensors="pt"))
        if self.augmentation is not None:
            name = self.extractor.model_input_names[0]
            batch[name] = self.augmentation.mask_features(batch[name], seeds)
        batch["labels"] = torch.from_numpy(labels[:, None])
        return batch | {name: torch.from_numpy(values) for name, values in columns.items()}


def columns_of(items: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return the COLUMNS that the windows have, each (B,)."""
    return {
        name: np.array([item[name] for item in items], dtype) for name, dtype in COLUMNS.items() if name in items[0]
    }


def embedded_batch(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Collate stored embeddings: `embeddings` (B, 1 + K, D) float32 instead of features."""
    return {name: torch.from_numpy(values) for name, values in columns_of(items).items()} | {
        "embeddings": torch.from_numpy(np.stack([item["embeddings"] for item in items]).astype(np.float32)),
        "labels": torch.tensor([[item["label"]] for item in items]),
        "mixed": torch.zeros(len(items), dtype=torch.bool),
    }
