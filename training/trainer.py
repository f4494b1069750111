"""Trainer with an order that resumes exactly, torch's schedulers, plain Adam, and the time that it waited for data."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, LRScheduler, SequentialLR, StepLR
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from training.arguments import TORCH_SCHEDULERS, RunTrainingArguments
from training.samplers import PrefetchingSampler

WARMUP_START = 1e-3  # share of the learning rate that a warm-up starts from (LinearLR refuses 0)


class SignalTrainer(Trainer):
    """Trainer over items that a sampler names by (index, seed).

    `sampler` is a function of the batch size of one process, so that the order knows how items become batches. Where
    items read raw files, the data set's `files_of(item)` names them, and those of coming batches are fetched ahead.
    """

    args: RunTrainingArguments

    def __init__(self, *args: Any, sampler: Callable[[int], Sampler], **kwargs: Any) -> None:
        arguments: RunTrainingArguments = kwargs["args"]
        if arguments.optim == "adam":
            adam = {"lr": arguments.learning_rate, "eps": arguments.adam_epsilon}
            adam |= {"betas": (arguments.adam_beta1, arguments.adam_beta2)}
            kwargs["optimizer_cls_and_kwargs"] = (torch.optim.Adam, adam)
        super().__init__(*args, **kwargs)
        self.sampler = sampler(self.args.train_batch_size)
        if hasattr(self.train_dataset, "files_of") and self.args.prefetch_batches:
            self.sampler = self.prefetching(self.sampler)
        self.add_callback(EpochOfSampler(self.sampler))
        self.data_wait_seconds = 0.0
        self.train_seconds = 0.0

    def prefetching(self, sampler: Sampler) -> Sampler:
        """The same order, the raw files of coming batches of this process on their way."""
        files_of, batch_size = self.train_dataset.files_of, self.args.train_batch_size
        ahead, index, processes = self.args.prefetch_batches, self.args.process_index, self.args.world_size
        return PrefetchingSampler(sampler, files_of, batch_size, ahead, index, processes)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        """The order of training; Trainer's name, held by a test."""
        return self.sampler

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler:
        """In the order of the data, always: predictions are matched with their trials by position."""
        return SequentialSampler(eval_dataset)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Torch's StepLR and ExponentialLR beside transformers' schedules, with the same warm-up."""
        name = self.args.lr_scheduler_type
        if name not in TORCH_SCHEDULERS or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        optimizer = optimizer or self.optimizer
        kind = {"step": StepLR, "exponential": ExponentialLR}[name]
        try:
            schedule = kind(optimizer, **(self.args.lr_scheduler_kwargs or {}))
        except TypeError as error:
            needs = {"step": '{"step_size": 100, "gamma": 0.5}', "exponential": '{"gamma": 0.99}'}[name]
            raise ValueError(f"lr_scheduler_type {name} needs lr_scheduler_kwargs such as {needs}: {error}") from error
        warmup_steps = self.args.get_warmup_steps(num_training_steps)
        if warmup_steps:
            warmup = LinearLR(optimizer, start_factor=WARMUP_START, total_iters=warmup_steps)
            schedule = SequentialLR(optimizer, [warmup, schedule], milestones=[warmup_steps])
        self.lr_scheduler = schedule
        self._created_lr_scheduler = True
        return schedule

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """As in Trainer, timed: this is where training waits for data."""
        start = time.perf_counter()
        samples = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.data_wait_seconds += time.perf_counter() - start
        return samples

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As in Trainer, timed."""
        start = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self.train_seconds += time.perf_counter() - start
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None are counted: transformers' estimate takes every feature of a frame for a token of a language model."""
        return 0

    @property
    def data_wait_share(self) -> float:
        """The share of training time spent waiting for batches; 0 before the first step."""
        total = self.data_wait_seconds + self.train_seconds
        return self.data_wait_seconds / total if total else 0.0


class EpochOfSampler(TrainerCallback):
    """Tells the sampler its epoch. Accelerate's wrappers forget to in some arrangements of ranks and resuming."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))


def last_whole_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint that was written to its end; a killed run may have left half of a later one.

    Trainer writes `trainer_state.json` last, so a checkpoint whose state reads as JSON is whole.
    """
    checkpoints = [path for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-[0-9]*") if path.is_dir()]
    for path in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        return path
    return None
