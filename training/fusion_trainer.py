"""Train models that fuse several modalities, with a learning rate per part."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader, Dataset, Subset
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from modeling.modeling_fusion import FusionPreTrainedModel
from training.samplers import InOrder, LengthGroupedSampler, ShardedSampler, interleave_batches
from training.streaming import shard_numbers
from training.task import Run
from training.trainer import SignalTrainer

logger = logging.getLogger(__name__)

MANY_REPEATED = 0.1  # share of the items; if more are repeated within an epoch, the log warns
SMALLEST_BATCH = 2  # items; BatchNorm cannot compute a variance from one


def order_of_training(
    lengths: Sequence[int] | np.ndarray, run: Run, shards: np.ndarray | None = None
) -> Callable[[int], LengthGroupedSampler | ShardedSampler]:
    """Return a function that makes the training sampler for a batch size. No batch has a single item.

    Args:
        lengths: length of each item; items of similar length share batches.
        shards: shard of each item, if the data are streamed. Lengths are then ignored.
    """
    if run.training.per_device_train_batch_size < SMALLEST_BATCH:
        raise ValueError(
            f"per_device_train_batch_size={run.training.per_device_train_batch_size}: BatchNorm needs at least "
            f"{SMALLEST_BATCH} items per batch. Give {SMALLEST_BATCH} or more."
        )
    if shards is None:
        return lambda batch_size: LengthGroupedSampler(lengths, batch_size, run.training.seed, SMALLEST_BATCH)

    def sharded(batch_size: int) -> ShardedSampler:
        sampler = ShardedSampler(shards, batch_size, run.training.seed, run.training.world_size)
        logger.log(
            logging.WARNING if sampler.repeated > MANY_REPEATED * len(shards) else logging.INFO,
            "streaming: %d of %d items are repeated in each epoch, so that all processes take equally many steps. "
            "To reduce this, use a number of processes that divides the number of shards.",
            sampler.repeated,
            len(shards),
        )
        return sampler

    return sharded


def ablations_of(modalities: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the modalities to hide, by ablation: each modality alone, and all but each."""
    alone = {f"{name} alone": frozenset(modalities) - {name} for name in modalities}
    without = {f"without {name}": frozenset({name}) for name in modalities}
    # With two modalities, "a alone" and "without b" are the same ablation.
    return alone | (without if len(modalities) > 2 else {})


class FusionTrainer(SignalTrainer):
    """`SignalTrainer` for models that fuse modalities.

    Args:
        streamed: whether the rows are read shard by shard from S3.
    """

    model: FusionPreTrainedModel

    def __init__(self, *args: Any, streamed: bool = False, **kwargs: Any) -> None:
        self.streamed = streamed
        self.undecodable = 0  # unreadable clips, counted at each read in this process
        super().__init__(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Count `undecodable` and remove it from the model's inputs. Overrides a private method of Trainer."""
        if "undecodable" in inputs:
            self.undecodable += int(inputs.pop("undecodable").sum())
        return super()._prepare_inputs(inputs)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return Trainer's loader, with streamed rows divided over the ranks by shard."""
        return super().get_eval_dataloader(self.by_ranks(self.eval_dataset if eval_dataset is None else eval_dataset))

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """Return Trainer's loader, with streamed rows divided over the ranks by shard."""
        return super().get_test_dataloader(self.by_ranks(test_dataset))

    def by_ranks(self, dataset: Any) -> Any:
        """Reorder streamed rows so that each rank reads its own shards one after the other; leave others unchanged.

        Some rows are repeated, so that all ranks have the same number of batches. `in_order_of_data` removes them.
        """
        if not self.streamed or not len(dataset):
            return dataset
        shards, processes = shard_numbers(dataset.rows), self.args.world_size
        own = [np.flatnonzero(shards % processes == rank) for rank in range(processes)]
        # A rank without a shard repeats row 0 of the data set, because it must take part in every step.
        orders = [(rows, rows[-1:] if len(rows) else np.zeros(1, np.int64)) for rows in own]
        # One process needs no padding to full batches.
        size = self.args.eval_batch_size if processes > 1 else 1
        return Subset(dataset, interleave_batches(orders, size).tolist())

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Return the sampler of `SignalTrainer`, prefetching the next shard. Overrides a private method of Trainer."""
        if not isinstance(eval_dataset, Subset) or not self.args.prefetch_batches:
            return super()._get_eval_sampler(eval_dataset)
        rows: Any = eval_dataset.dataset

        def files_of(index: int) -> list[str]:
            return rows.files_of(eval_dataset.indices[index])

        return self.prefetching(InOrder(eval_dataset), files_of, self.args.eval_batch_size)

    def in_order_of_data(self, dataloader: DataLoader, output: EvalLoopOutput) -> EvalLoopOutput:
        """Return the predictions in the order of the rows, without the repeated rows of `by_ranks`."""
        if not isinstance(dataloader.dataset, Subset):
            return output
        first = np.unique(dataloader.dataset.indices, return_index=True)[1]  # first occurrence of each row
        predictions: Any = output.predictions
        # A model with several outputs, such as emotion and sentiment, gives a tuple of arrays.
        if isinstance(predictions, tuple):
            predictions = tuple(values[first] for values in predictions)
        labels = cast(np.ndarray, output.label_ids)
        return EvalLoopOutput(predictions, labels[first], output.metrics, len(first))

    def predict_ablations(self, dataset: Any, side: str) -> dict[str, PredictionOutput]:
        """Return the predictions with some modalities hidden, by ablation; empty for a model of one modality."""
        if len(dataset.modalities) < 2:  # hiding the only modality would leave no input
            return {}
        return {
            name: self.predict(replace(dataset, hidden=hidden), metric_key_prefix=f"{side}_ablation")
            for name, hidden in ablations_of(dataset.modalities).items()
        }
