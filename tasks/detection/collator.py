"""Collate windows of sound into a batch of features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import FeatureExtractionMixin

from tasks.detection.augmentation import Augmentation


@dataclass(frozen=True)
class DetectionCollator:
    """Windows of AudioSet to a batch of features, by the extractor of a model; mixed and masked if so wished.

    The extractor is `AudioFeatureExtractor` or any of transformers that takes a list of sounds. What it gives is in
    the batch under its own names; masks over frames and features want (B, T, F). `item` is -1 where a window was mixed
    with one that holds the target, so that its score says nothing of the item. Windows with a negative seed are not
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
    >>> batch["item"], batch["requested"], batch["seed"]
    (tensor([7, 9]), tensor([7, 8]), tensor([3, 4]))
    """

    extractor: FeatureExtractionMixin
    augmentation: Augmentation | None = None

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Items are those of `AudioSetWindows`, of one length; labels are (B, 1) float32, numbers (B,) int64."""
        rate = self.extractor.sampling_rate
        for item in items:
            if item.get("sampling_rate", rate) != rate:
                raise ValueError(
                    f"windows are of {item['sampling_rate']} Hz, and the extractor takes {rate} Hz; make both the same"
                )
        audio = np.stack([item["audio"] for item in items])  # (B, S)
        labels = np.array([item["label"] for item in items], np.float32)  # (B,)
        numbers = {name: np.array([item[name] for item in items], np.int64) for name in ("item", "requested", "seed")}
        seeds = numbers["seed"].tolist()
        if self.augmentation is not None:
            others = self.augmentation.mixed_with(seeds)
            numbers["item"][(others >= 0) & (labels[others] > 0)] = -1
            audio, labels = self.augmentation.mixture(audio, labels, seeds)
        batch = dict(self.extractor(list(audio), sampling_rate=rate, return_tensors="pt"))
        if self.augmentation is not None:
            name = self.extractor.model_input_names[0]
            batch[name] = self.augmentation.masked(batch[name], seeds)
        batch["labels"] = torch.from_numpy(labels[:, None])
        if "loudness" in items[0]:  # of windows that are scored
            batch["loudness"] = torch.tensor([item["loudness"] for item in items])
        return batch | {name: torch.from_numpy(values) for name, values in numbers.items()}
