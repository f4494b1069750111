"""Trainer for models of several parts, each with a learning rate of its own."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from training.samplers import InOrder, LengthGroupedSampler, ShardedSampler, dealt_batches
from training.streaming import shards_of
from training.task import Run
from training.trainer import SignalTrainer

logger = logging.getLogger(__name__)

MUCH_REPEATED = 0.1  # share of the items of an epoch that is worth a warning when it comes again
ONE_LEFT = 2  # items that a batch of training needs at least: BatchNorm has no variance of one


def part_rates(rates: dict[str, float]) -> None:
    """Refuse learning rates by part that are none."""
    for part, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
            raise ValueError(f"learning_rates.{part} = {rate!r}: give a number above 0")


def order_of_training(
    lengths: Sequence[int], run: Run, shards: np.ndarray | None = None
) -> Callable[[int], LengthGroupedSampler | ShardedSampler]:
    """The order of items of some lengths, for a batch size that the trainer knows; no batch is of one item.

    Args:
        shards: the shard of each item, where data are streamed; lengths are then left alone.
    """
    if run.training.per_device_train_batch_size < ONE_LEFT:
        raise ValueError("per_device_train_batch_size = 1: BatchNorm has no variance of one item; give 2 or more")
    if shards is None:
        return lambda batch_size: LengthGroupedSampler(lengths, batch_size, run.training.seed, ONE_LEFT)

    def sharded(batch_size: int) -> ShardedSampler:
        sampler = ShardedSampler(shards, batch_size, run.training.seed, run.training.world_size)
        tell = logger.warning if sampler.repeated > MUCH_REPEATED * len(shards) else logger.info
        tell(
            "streaming: %d of %d items are served again in an epoch, so that all processes take equally many steps; "
            "fewest where the number of processes divides that of the shards",
            sampler.repeated,
            len(shards),
        )
        return sampler

    return sharded


def ablations_of(modalities: Sequence[str]) -> dict[str, frozenset[str]]:
    """What is hidden for each modality alone and for all but each; of two modalities these are the same."""
    alone = {f"{name} alone": frozenset(modalities) - {name} for name in modalities}
    without = {f"without {name}": frozenset({name}) for name in modalities}
    return alone | (without if len(modalities) > 2 else {})


class FusionTrainer(SignalTrainer):
    """As `SignalTrainer`, the optimizer's groups being the parts that `model.parts()` names.

    `learning_rates` are by part; the others have the run's `learning_rate`. Biases and norms have no weight decay.
    `streamed` says that the rows of data sets are read shard by shard.
    """

    def __init__(self, *args: Any, learning_rates: dict[str, float], streamed: bool = False, **kwargs: Any) -> None:
        self.learning_rates, self.streamed = learning_rates, streamed
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

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        """As in Trainer, streamed rows by ranks."""
        return super().get_eval_dataloader(self.by_ranks(self.eval_dataset if eval_dataset is None else eval_dataset))

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """As in Trainer, streamed rows by ranks."""
        return super().get_test_dataloader(self.by_ranks(test_dataset))

    def by_ranks(self, dataset: Dataset) -> Dataset:
        """Streamed rows in an order in which each rank meets its own shards, one after the other; others as they are.

        Ranks are made equally long by rows that come twice, which `evaluation_loop` takes out again.
        """
        if not self.streamed or not len(dataset):
            return dataset
        shards, processes = shards_of(dataset.rows), self.args.world_size
        own = [np.flatnonzero(shards % processes == rank) for rank in range(processes)]
        orders = [(rows, rows[-1:] if len(rows) else np.zeros(1, np.int64)) for rows in own]
        size = self.args.eval_batch_size if processes > 1 else 1
        return Subset(dataset, dealt_batches(orders, size).tolist())

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler:
        """As in `SignalTrainer`, the next shard of streamed rows on its way; Trainer's name, held by a test."""
        if not isinstance(eval_dataset, Subset) or not self.args.prefetch_batches:
            return super()._get_eval_sampler(eval_dataset)

        def files_of(place: int) -> list[str]:
            return eval_dataset.dataset.files_of(eval_dataset.indices[place])

        return self.prefetching(InOrder(eval_dataset), files_of, self.args.eval_batch_size)

    def in_order_of_data(self, dataloader: DataLoader, output: EvalLoopOutput) -> EvalLoopOutput:
        """Bring predictions for streamed rows in the order of the rows, each row once."""
        if not isinstance(dataloader.dataset, Subset):
            return output
        places = np.unique(dataloader.dataset.indices, return_index=True)[1]  # where each row comes first
        predictions = output.predictions
        if isinstance(predictions, tuple):
            predictions = tuple(values[places] for values in predictions)
        return EvalLoopOutput(predictions, output.label_ids[places], output.metrics, len(places))

    def predict_with_less(self, dataset: Dataset, side: str) -> dict[str, PredictionOutput]:
        """What the model says where modalities are hidden, by ablation; nothing of a model of one modality."""
        if len(dataset.modalities) < 2:
            return {}
        return {
            name: self.predict(replace(dataset, hidden=hidden), metric_key_prefix=f"{side}_ablation")
            for name, hidden in ablations_of(dataset.modalities).items()
        }
