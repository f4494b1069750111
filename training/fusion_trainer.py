"""Train models of several parts, each with its own learning rate."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader, Dataset, Subset
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from modeling.modeling_fusion import FusionPreTrainedModel
from training.samplers import InOrder, LengthGroupedSampler, ShardedSampler, dealt_batches
from training.streaming import shard_numbers
from training.task import Run
from training.trainer import SignalTrainer

logger = logging.getLogger(__name__)

MANY_REPEATED = 0.1  # share of the items of an epoch; if more come twice, the log warns
SMALLEST_BATCH = 2  # items: BatchNorm has no variance of one


def order_of_training(
    lengths: Sequence[int] | np.ndarray, run: Run, shards: np.ndarray | None = None
) -> Callable[[int], LengthGroupedSampler | ShardedSampler]:
    """Return the order of training as a function of the batch size; no batch has a single item.

    Args:
        shards: the shard of each item, if the data are streamed; the lengths are then not used.
    """
    if run.training.per_device_train_batch_size < SMALLEST_BATCH:
        raise ValueError("per_device_train_batch_size = 1: BatchNorm has no variance of one item; give 2 or more")
    if shards is None:
        return lambda batch_size: LengthGroupedSampler(lengths, batch_size, run.training.seed, SMALLEST_BATCH)

    def sharded(batch_size: int) -> ShardedSampler:
        sampler = ShardedSampler(shards, batch_size, run.training.seed, run.training.world_size)
        logger.log(
            logging.WARNING if sampler.repeated > MANY_REPEATED * len(shards) else logging.INFO,
            "streaming: %d of %d items are served again in an epoch, so that all processes take equally many steps; "
            "fewest where the number of processes divides that of the shards",
            sampler.repeated,
            len(shards),
        )
        return sampler

    return sharded


def ablations_of(modalities: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return which modalities to hide, for each one alone and for all but each; of two modalities these are equal."""
    alone = {f"{name} alone": frozenset(modalities) - {name} for name in modalities}
    without = {f"without {name}": frozenset({name}) for name in modalities}
    return alone | (without if len(modalities) > 2 else {})


class FusionTrainer(SignalTrainer):
    """As `SignalTrainer`, for models that fuse modalities.

    Args:
        streamed: the rows of data sets are read shard by shard.
    """

    model: FusionPreTrainedModel

    def __init__(self, *args: Any, streamed: bool = False, **kwargs: Any) -> None:
        self.streamed = streamed
        self.undecodable = 0  # clips that could not be read, counted at each read by this process
        super().__init__(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As in Trainer; `undecodable` is counted and does not reach the model. Trainer's name, held by a test."""
        if "undecodable" in inputs:
            self.undecodable += int(inputs.pop("undecodable").sum())
        return super()._prepare_inputs(inputs)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As in Trainer, with streamed rows divided by shard."""
        return super().get_eval_dataloader(self.by_ranks(self.eval_dataset if eval_dataset is None else eval_dataset))

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """As in Trainer, with streamed rows divided by shard."""
        return super().get_test_dataloader(self.by_ranks(test_dataset))

    def by_ranks(self, dataset: Any) -> Any:
        """Order streamed rows so that each rank reads its own shards, one after the other; leave others as they are.

        Some rows come twice to make the ranks equally long. `in_order_of_data` removes them.
        """
        if not self.streamed or not len(dataset):
            return dataset
        shards, processes = shard_numbers(dataset.rows), self.args.world_size
        own = [np.flatnonzero(shards % processes == rank) for rank in range(processes)]
        orders = [(rows, rows[-1:] if len(rows) else np.zeros(1, np.int64)) for rows in own]
        size = self.args.eval_batch_size if processes > 1 else 1
        return Subset(dataset, dealt_batches(orders, size).tolist())

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """As in `SignalTrainer`, with the next shard fetched ahead. Trainer's name, held by a test."""
        if not isinstance(eval_dataset, Subset) or not self.args.prefetch_batches:
            return super()._get_eval_sampler(eval_dataset)
        rows: Any = eval_dataset.dataset

        def files_of(place: int) -> list[str]:
            return rows.files_of(eval_dataset.indices[place])

        return self.prefetching(InOrder(eval_dataset), files_of, self.args.eval_batch_size)

    def in_order_of_data(self, dataloader: DataLoader, output: EvalLoopOutput) -> EvalLoopOutput:
        """Return the predictions for streamed rows in the order of the rows, each row once."""
        if not isinstance(dataloader.dataset, Subset):
            return output
        places = np.unique(dataloader.dataset.indices, return_index=True)[1]  # where each row comes first
        predictions: Any = output.predictions
        if isinstance(predictions, tuple):
            predictions = tuple(values[places] for values in predictions)
        labels = cast(np.ndarray, output.label_ids)
        return EvalLoopOutput(predictions, labels[places], output.metrics, len(places))

    def predict_ablations(self, dataset: Any, side: str) -> dict[str, PredictionOutput]:
        """Predict with some modalities hidden, by ablation; there is none of a model of one modality."""
        if len(dataset.modalities) < 2:
            return {}
        return {
            name: self.predict(replace(dataset, hidden=hidden), metric_key_prefix=f"{side}_ablation")
            for name, hidden in ablations_of(dataset.modalities).items()
        }
