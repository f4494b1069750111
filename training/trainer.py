"""Trainer with an order that resumes exactly, torch's schedulers, plain Adam, and the time that it waited for data."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import EvalPrediction, PreTrainedModel, ProgressCallback, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, SaveStrategy
from transformers.utils.logging import disable_progress_bar

from training.callbacks import EpochOfSampler, StopOnSigterm
from training.checkpoints import note_digest
from training.environment import others_run_too, processes_of_this_host
from training.parts import groups_of_parts, sizes_of_parts
from training.progress import ProgressBar
from training.samplers import EpochSampler, PrefetchingSampler
from training.settings import PLATEAU, TORCH_SCHEDULERS
from training.trainer_arguments import RunTrainingArguments
from training.workers import sharing_files

logger = logging.getLogger(__name__)

WARMUP_START = 1e-3  # share of the learning rate that a warm-up starts from (LinearLR refuses 0)

SETTLED = 10.0  # s of training before waiting for data is judged: the first batches wait for workers to start
WAITS_MUCH = 0.1  # share of training spent waiting for data that is worth a warning


class SignalTrainer(Trainer):
    """Trainer over items that a sampler names by (index, seed).

    `sampler` is a function of the batch size of one process, so that the order knows how items become batches. Where
    items read raw files, the data set's `files_of(item)` names them, and those of coming batches are fetched ahead.

    `learning_rates` are by part, of a model that has `parts()`; the other parts have the run's `learning_rate`.
    """

    args: RunTrainingArguments
    model: PreTrainedModel

    def __init__(
        self,
        *args: Any,
        sampler: Callable[[int], EpochSampler],
        validation_metrics: Callable[[EvalPrediction], dict[str, float]],
        learning_rates: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        arguments: RunTrainingArguments = kwargs["args"]
        if arguments.optim == "adam":
            adam = {"lr": arguments.learning_rate, "eps": arguments.adam_epsilon}
            adam |= {"betas": (arguments.adam_beta1, arguments.adam_beta2)}
            kwargs["optimizer_cls_and_kwargs"] = (torch.optim.Adam, adam)
        super().__init__(*args, **kwargs)
        disable_progress_bar()  # transformers' own, of the files of weights
        if self.pop_callback(ProgressCallback) is not None:  # none where disable_tqdm asks for plain lines
            self.add_callback(ProgressBar())
        self.validation_metrics, self.learning_rates = validation_metrics, learning_rates or {}
        self.sampler = sampler(self.args.train_batch_size)
        files_of = getattr(self.train_dataset, "files_of", None)
        if files_of is not None and self.args.prefetch_batches:
            self.sampler = self.prefetching(self.sampler, files_of, self.args.train_batch_size)
        self.add_callback(EpochOfSampler(self.sampler))
        self.stopper = StopOnSigterm()
        self.add_callback(self.stopper)
        self.data_wait_seconds = 0.0
        self.train_seconds = 0.0
        self.seconds_at_log = (0.0, 0.0)  # both, when the last training loss was logged
        self.warned_of_waiting = False

    def prefetching(self, sampler: Any, files_of: Callable[[Any], list[str]], batch_size: int) -> PrefetchingSampler:
        """The same order, the raw files of coming batches of this process on their way."""
        ahead, index, processes = self.args.prefetch_batches, self.args.process_index, self.args.world_size
        return PrefetchingSampler(sampler, files_of, batch_size, ahead, index, processes)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """As in Trainer; a model with parts has groups for each. Trainer's name, held by a test."""
        parts: Any = getattr(self.model, "parts", None)
        if parts is None:
            if self.learning_rates:
                raise ValueError(f"learning_rates={self.learning_rates}: the model has no parts. Leave it out.")
            return super().create_optimizer(model)
        if self.optimizer is None:
            kind, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(groups_of_parts(parts(), self.learning_rates, self.args), **options)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        """The order of training; Trainer's name, held by a test."""
        return self.sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """In the order of the data, always: predictions are matched with their trials by position."""
        return SequentialSampler(eval_dataset)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """As in Trainer, with workers that use this process's remote files. Trainer's name, held by a test."""
        return sharing_files(super()._get_dataloader(*args, **kwargs))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LRScheduler:
        """Torch's schedulers next to those of transformers, with the same warm-up."""
        name = self.args.lr_scheduler_type
        options: Any = self.args.lr_scheduler_kwargs or {}
        if name == PLATEAU:  # which is better follows from the metric; torch takes less for better
            self.args.lr_scheduler_kwargs = {"mode": "max" if self.args.greater_is_better else "min"} | options
        try:
            if name not in TORCH_SCHEDULERS or self.lr_scheduler is not None:
                return super().create_scheduler(num_training_steps, optimizer)
            self.lr_scheduler = self.torch_scheduler(num_training_steps, optimizer or self.optimizer, options)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"lr_scheduler_kwargs={options}: {name} does not take them ({error}).") from error
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def torch_scheduler(self, steps: int, optimizer: Any, options: dict[str, Any]) -> LRScheduler:
        """A scheduler of torch; OneCycleLR goes up to the learning rate of each part, unless `max_lr` is given."""
        if self.args.lr_scheduler_type == "OneCycleLR":
            options = {"max_lr": [group["lr"] for group in optimizer.param_groups], "total_steps": steps} | options
        schedule = getattr(lr_scheduler, self.args.lr_scheduler_type)(optimizer, **options)
        warmup_steps = self.args.get_warmup_steps(steps)
        if warmup_steps:
            warmup = LinearLR(optimizer, start_factor=WARMUP_START, total_iters=warmup_steps)
            schedule = SequentialLR(optimizer, [warmup, schedule], milestones=[warmup_steps])
        return schedule

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """As in Trainer, timed: this is where training waits for data.

        A run that was killed after its last step has no batches left; Trainer would take one more step with each try.
        """
        if self.state.global_step >= self.state.max_steps:
            return [], None
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

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """As in Trainer; the sizes of the parts are logged first. A run that SIGTERM cut short ends here."""
        sizes = sizes_of_parts(self.model).items()
        said = (f"{part} {trainable:,} trainable, {frozen:,} frozen" for part, (trainable, frozen) in sizes)
        logger.info("parameters: %s", "; ".join(said))
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.stopper.leave(str(self.args.output_dir))
        return result

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in Trainer, with the digest of the weights, so that damage to them is seen when a run resumes."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            note_digest(Path(output_dir or str(self.args.output_dir)))

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As in Trainer, by the model that is saved, on all ranks: in training each norms by statistics of its own.

        Metrics are computed for validation only. Trainer's `compute_metrics` would be called for every data set.
        """
        if self.args.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        output = self.in_order_of_data(dataloader, output)
        if metric_key_prefix != "eval" or output.predictions is None:
            return output
        labels: Any = output.label_ids
        scores = self.validation_metrics(EvalPrediction(output.predictions, labels))
        metrics = (output.metrics or {}) | {f"eval_{name}": value for name, value in scores.items()}
        return output._replace(metrics=metrics)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As in Trainer, but of equally good checkpoints the latest is the best: small validation sets saturate.

        Where the best is loaded at the end, a step that leaves no checkpoint cannot be it.
        """
        saves = self.control.should_save or self.args.save_strategy == SaveStrategy.BEST
        if self.args.load_best_model_at_end and not saves:
            return False
        if super()._determine_best_metric(metrics, trial):
            return True
        if metrics[f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"] != self.state.best_metric:
            return False
        self.state.best_global_step = self.state.global_step
        return True

    @property
    def loaded_step(self) -> int | None:
        """The step of the checkpoint that a finished training ended with; None for the last weights."""
        folder = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        return None if folder is None else int(Path(folder).name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"))

    def in_order_of_data(self, dataloader: DataLoader, output: EvalLoopOutput) -> EvalLoopOutput:
        """Return predictions in the order of the rows, as they are unless rows were read in another order."""
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in Trainer, with the share of time since the last loss that training waited for data."""
        if "loss" in logs:
            waited, trained = self.data_wait_seconds, self.train_seconds
            since = waited - self.seconds_at_log[0], trained - self.seconds_at_log[1]
            self.seconds_at_log = waited, trained
            logs["data_wait_share"] = round(since[0] / max(sum(since), 1e-9), 4)
            self.warn_of_waiting()
        super().log(logs, start_time)

    def warn_of_waiting(self) -> None:
        """Warn once, after some seconds of training, when batches come too slowly; and say what to change."""
        seconds = self.data_wait_seconds + self.train_seconds
        if self.warned_of_waiting or seconds < SETTLED or self.data_wait_share < WAITS_MUCH:
            return
        self.warned_of_waiting = True
        share = 100 * self.data_wait_share
        logger.warning("%.0f %% of training is waiting for data. %s", share, self.waiting_remedy)

    @property
    def waiting_remedy(self) -> str:
        """How a user makes batches come faster."""
        threads, workers = torch.get_num_threads(), self.args.dataloader_num_workers
        if not others_run_too((threads + workers) * processes_of_this_host()):
            return f"Raise dataloader_num_workers (it is {workers}), or make items cheaper."
        busy = f"Other programs use the cores too (load {os.getloadavg()[0]:.1f} on {os.cpu_count()})"
        return f"{busy}. Set num_threads to 1 (it is {threads})." if threads > 1 else f"{busy}. End them, or wait."

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None are counted: transformers' estimate takes every feature of a frame for a token of a language model."""
        return 0

    @property
    def data_wait_share(self) -> float:
        """The share of training time spent waiting for batches; 0 before the first step."""
        total = self.data_wait_seconds + self.train_seconds
        return self.data_wait_seconds / total if total else 0.0
