"""Trainer for models of several parts, each with a learning rate of its own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.trainer_utils import PredictionOutput

from training.arguments import Run
from training.samplers import LengthGroupedSampler
from training.trainer import SignalTrainer

ONE_LEFT = 2  # items that a batch of training needs at least: BatchNorm has no variance of one


def part_rates(rates: dict[str, float]) -> None:
    """Refuse learning rates by part that are none."""
    for part, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
            raise ValueError(f"learning_rates.{part} = {rate!r}: give a number above 0")


def order_of_training(lengths: Sequence[int], run: Run) -> Callable[[int], LengthGroupedSampler]:
    """The order of items of some lengths, for a batch size that the trainer knows; no batch is of one item."""
    if run.training.per_device_train_batch_size < ONE_LEFT:
        raise ValueError("per_device_train_batch_size = 1: BatchNorm has no variance of one item; give 2 or more")
    return lambda batch_size: LengthGroupedSampler(lengths, batch_size, run.training.seed, ONE_LEFT)


def ablations_of(modalities: Sequence[str]) -> dict[str, frozenset[str]]:
    """What is hidden for each modality alone and for all but each; of two modalities these are the same."""
    alone = {f"{name} alone": frozenset(modalities) - {name} for name in modalities}
    without = {f"without {name}": frozenset({name}) for name in modalities}
    return alone | (without if len(modalities) > 2 else {})


class FusionTrainer(SignalTrainer):
    """As `SignalTrainer`, the optimizer's groups being the parts that `model.parts()` names.

    `learning_rates` are by part; the others have the run's `learning_rate`. Biases and norms have no weight decay.
    """

    def __init__(self, *args: Any, learning_rates: dict[str, float], **kwargs: Any) -> None:
        self.learning_rates = learning_rates
        self.undecodable = 0  # items whose clip could not be read, each time that it was asked for by this process
        super().__init__(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As in Trainer, without what the model does not take, which is counted; Trainer's name, held by a test."""
        if "undecodable" in inputs:
            self.undecodable += int(inputs.pop("undecodable").sum())
        return super()._prepare_inputs(inputs)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """One group for the weights and one for the rest of each part; Trainer's name, held by a test."""
        if self.optimizer is None:
            parts = self.model.parts()
            unknown = sorted(self.learning_rates.keys() - parts.keys())
            if unknown:
                raise ValueError(
                    f"learning_rates names {', '.join(unknown)}; the model's parts are {', '.join(parts)}"
                )
            kind, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = []
            for name, parameters in parts.items():
                rate = self.learning_rates.get(name, self.args.learning_rate)
                for matrices, decay in ((True, self.args.weight_decay), (False, 0.0)):
                    kept = [parameter for parameter in parameters if (parameter.ndim > 1) == matrices]
                    if kept:
                        groups.append({"params": kept, "lr": rate, "weight_decay": decay, "name": name})
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def predict_with_less(self, dataset: Dataset, side: str) -> dict[str, PredictionOutput]:
        """What the model says where modalities are hidden, by ablation; nothing of a model of one modality."""
        if len(dataset.modalities) < 2:
            return {}
        return {
            name: self.predict(replace(dataset, hidden=hidden), metric_key_prefix=f"{side}_ablation")
            for name, hidden in ablations_of(dataset.modalities).items()
        }
