"""Collate windows of sound into a batch of features."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import BatchFeature

from tasks.detection.augmentation import Augmentation

# Columns of windows that are no input of the model. Windows to train on have all but the last, windows to score the
# last two.
COLUMNS = {"item": np.int64, "requested": np.int64, "seed": np.int64, "readable": np.bool_}


class SoundExtractor(Protocol):
    """A feature extractor of transformers that takes sounds."""

    sampling_rate: int  # Hz
    model_input_names: list[str]

    def __call__(self, sounds: list[np.ndarray], /, *, sampling_rate: int, return_tensors: str) -> BatchFeature:
        """Return the features of sounds (S,)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return its settings."""
        ...


@dataclass(frozen=True)
class DetectionCollator:
    """Windows of AudioSet to a batch of features, by the extractor of a model; mixed and masked if so wished.

    The extractor is `AudioFeatureExtractor` or any of transformers that takes a list of sounds. What it gives is in
    the batch under its own names; masks over frames and features want (B, T, F). A window is `mixed` if it was mixed
    with one that holds the target, so that its score says nothing about its item. Windows with a negative seed are not
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
        """Collate items of `AudioSetWindows` or `ClipWindows` of one length.

        `labels` are (B, 1) float32; `mixed`, and those of COLUMNS that the items have, are (B,).
        """
        if "embeddings" in items[0]:
            return embedded_batch(items)
        rate = self.extractor.sampling_rate
        for item in items:
            if item.get("sampling_rate", rate) != rate:
                raise ValueError(
                    f"windows are of {item['sampling_rate']} Hz, and the extractor takes {rate} Hz; make both the same"
                )
        audio = np.stack([item["audio"] for item in items])  # (B, S)
        labels = np.array([item["label"] for item in items], np.float32)  # (B,)
        columns = columns_of(items)
        seeds = columns["seed"].tolist()
        columns["mixed"] = np.zeros(len(items), bool)
        if self.augmentation is not None:
            others = self.augmentation.mixed_with(seeds)
            columns["mixed"] = (others >= 0) & (labels[others] > 0)
            audio, labels = self.augmentation.mixture(audio, labels, seeds)
        batch = dict(self.extractor(list(audio), sampling_rate=rate, return_tensors="pt"))
        if self.augmentation is not None:
            name = self.extractor.model_input_names[0]
            batch[name] = self.augmentation.masked(batch[name], seeds)
        batch["labels"] = torch.from_numpy(labels[:, None])
        return batch | {name: torch.from_numpy(values) for name, values in columns.items()}


def columns_of(items: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Those of COLUMNS that the items have, (B,) each."""
    return {name: np.array([item[name] for item in items], kind) for name, kind in COLUMNS.items() if name in items[0]}


def embedded_batch(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of windows whose embeddings are stored: `embeddings` (B, 1 + K, D) float32 in place of features."""
    return {name: torch.from_numpy(values) for name, values in columns_of(items).items()} | {
        "embeddings": torch.from_numpy(np.stack([item["embeddings"] for item in items]).astype(np.float32)),
        "labels": torch.tensor([[item["label"]] for item in items]),
        "mixed": torch.zeros(len(items), dtype=torch.bool),
    }
