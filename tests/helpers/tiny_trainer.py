"""A trainer for a tiny model on a few synthetic trials."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from modeling.configuration_tcn import TcnConfig
from modeling.layers import IGNORE_LABEL
from modeling.modeling_tcn import TcnForSignalRegression
from tasks.eda.collator import SignalCollator
from training.samplers import LengthGroupedSampler
from training.trainer import SignalTrainer
from training.trainer_arguments import RunTrainingArguments

FEATURES = 3


class ToyTrials(Dataset):
    """Sixteen trials of different lengths; the target is the first feature, shifted, with some frames masked."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.input_features = [generator.normal(size=(n, FEATURES)).astype(np.float32) for n in range(24, 40)]
        self.labels = [np.roll(features[:, :1], 1) for features in self.input_features]
        for labels in self.labels[::3]:
            labels[:5] = IGNORE_LABEL

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, np.ndarray]:
        index = item[0] if isinstance(item, tuple) else item
        return {"input_features": self.input_features[index], "labels": self.labels[index]}


def tiny_trainer(folder: Path, model_config: dict | None = None, **settings: Any) -> SignalTrainer:
    """Return a trainer on ToyTrials; `settings` are keys of a config."""
    torch.manual_seed(0)
    config = TcnConfig(input_size=FEATURES, num_blocks=2, num_channels=8, **{"dropout": 0.0} | (model_config or {}))
    defaults = {
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "report_to": "none",
        "use_cpu": True,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    data = ToyTrials()
    return SignalTrainer(
        model=TcnForSignalRegression(config),
        args=RunTrainingArguments(output_dir=str(folder), **defaults | settings),
        train_dataset=data,
        eval_dataset=data,
        data_collator=SignalCollator(),
        sampler=lambda batch_size: LengthGroupedSampler([len(x) for x in data.labels], batch_size, seed=0),
        validation_metrics=lambda output: {},
    )
