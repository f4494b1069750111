"""A Trainer that resumes exactly, supports torch's schedulers and plain Adam, and measures its waiting for data."""

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
from training.checkpoints import write_digest
from training.environment import cores_are_contended, processes_of_this_host
from training.parts import groups_of_parts, sizes_of_parts
from training.progress import ProgressBar
from training.samplers import EpochSampler, PrefetchingSampler
from training.settings import PLATEAU, TORCH_SCHEDULERS
from training.trainer_arguments import RunTrainingArguments
from training.workers import sharing_files

logger = logging.getLogger(__name__)

WARMUP_START = 1e-3  # warm-up starts from this share of the learning rate, because LinearLR does not accept 0

SETTLED_SECONDS = 10.0  # training time before the wait for data is judged: the first batches wait for worker processes
LONG_WAIT = 0.1  # log a warning if training waits for data for more than this share of the time


class SignalTrainer(Trainer):
    """Train on items that a sampler selects by (index, seed).

    If the data set has `files_of(item)`, the raw files of the next batches are downloaded ahead.

    Args:
        sampler: makes the training sampler for a batch size per process.
        validation_metrics: computes the scores of each validation.
        learning_rates: learning rate by part, for a model with `parts()`. The other parts use `learning_rate`.
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
            # transformers offers AdamW only, so pass torch's Adam as a class.
            adam |= {"betas": (arguments.adam_beta1, arguments.adam_beta2)}
            kwargs["optimizer_cls_and_kwargs"] = (torch.optim.Adam, adam)
        super().__init__(*args, **kwargs)
        disable_progress_bar()  # transformers would show one more bar while it loads weights
        if self.pop_callback(ProgressCallback) is not None:  # it is missing if `disable_tqdm` is set
            self.add_callback(ProgressBar())
        self.validation_metrics, self.learning_rates = validation_metrics, learning_rates or {}
        # train_batch_size also counts several GPUs of one process, which per_device_train_batch_size does not.
        self.sampler = sampler(self.args.train_batch_size)
        files_of = getattr(self.train_dataset, "files_of", None)
        if files_of is not None and self.args.prefetch_batches:
            self.sampler = self.prefetching(self.sampler, files_of, self.args.train_batch_size)
        self.add_callback(EpochOfSampler(self.sampler))
        self.stopper = StopOnSigterm()
        self.add_callback(self.stopper)
        self.data_wait_seconds = 0.0
        self.train_seconds = 0.0
        self.seconds_at_log = (0.0, 0.0)  # data_wait_seconds and train_seconds when the last loss was logged
        self.warned_of_waiting = False

    def prefetching(self, sampler: Any, files_of: Callable[[Any], list[str]], batch_size: int) -> PrefetchingSampler:
        """Wrap a sampler so that the raw files of this process's next batches are downloaded ahead."""
        ahead, index, processes = self.args.prefetch_batches, self.args.process_index, self.args.world_size
        return PrefetchingSampler(sampler, files_of, batch_size, ahead, index, processes)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer as Trainer does, with separate groups for each part of a model that has parts."""
        parts: Any = getattr(self.model, "parts", None)
        if parts is None:
            if self.learning_rates:
                raise ValueError(f"learning_rates={self.learning_rates}: this model has no parts. Remove the key.")
            return super().create_optimizer(model)
        if self.optimizer is None:
            optimizer_class, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
                self.args, self.model
            )
            self.optimizer = optimizer_class(groups_of_parts(parts(), self.learning_rates, self.args), **options)
        return self.optimizer

    # The three methods below override private methods of Trainer. A test checks that Trainer still calls them.

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        return self.sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        # Always in the order of the data: predictions are matched with their trials by position.
        return SequentialSampler(eval_dataset)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        return sharing_files(super()._get_dataloader(*args, **kwargs))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LRScheduler:
        """Create a scheduler of transformers or torch; both kinds support the warm-up of Trainer."""
        name = self.args.lr_scheduler_type
        options: Any = self.args.lr_scheduler_kwargs or {}
        if name == PLATEAU:  # torch minimises by default, but most of our metrics are better when higher
            self.args.lr_scheduler_kwargs = {"mode": "max" if self.args.greater_is_better else "min"} | options
        try:
            if name not in TORCH_SCHEDULERS or self.lr_scheduler is not None:
                return super().create_scheduler(num_training_steps, optimizer)
            self.lr_scheduler = self.torch_scheduler(num_training_steps, optimizer or self.optimizer, options)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(
                f"lr_scheduler_kwargs={options}: {name} rejects these arguments ({error}). Correct or remove them."
            ) from error
        self._created_lr_scheduler = True  # as Trainer does for its own schedulers
        return self.lr_scheduler

    def torch_scheduler(self, steps: int, optimizer: Any, options: dict[str, Any]) -> LRScheduler:
        """Create a scheduler of torch, after a linear warm-up if the run has one."""
        if self.args.lr_scheduler_type == "OneCycleLR":
            # Peak at the learning rate of each part, unless `max_lr` is given.
            options = {"max_lr": [group["lr"] for group in optimizer.param_groups], "total_steps": steps} | options
        schedule = getattr(lr_scheduler, self.args.lr_scheduler_type)(optimizer, **options)
        # torch schedulers have no warm-up of their own, so put a linear one in front.
        warmup_steps = self.args.get_warmup_steps(steps)
        if warmup_steps:
            warmup = LinearLR(optimizer, start_factor=WARMUP_START, total_iters=warmup_steps)
            schedule = SequentialLR(optimizer, [warmup, schedule], milestones=[warmup_steps])
        return schedule

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Get the batches of the next step as Trainer does, and measure the time: here training waits for data."""
        # A run that was killed after its last step is resumed with no batches left. Trainer would take an extra step.
        if self.state.global_step >= self.state.max_steps:
            return [], None
        start = time.perf_counter()
        samples = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.data_wait_seconds += time.perf_counter() - start
        return samples

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take a training step as Trainer does, and measure the time."""
        start = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self.train_seconds += time.perf_counter() - start
        return loss

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Log the size of each part, then train as Trainer does. Exit the program if SIGTERM interrupts training."""
        sizes = sizes_of_parts(self.model).items()
        lines = (f"{part} {trainable:,} trainable, {frozen:,} frozen" for part, (trainable, frozen) in sizes)
        logger.info("parameters: %s", "; ".join(lines))
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.stopper.exit_if_stopped(str(self.args.output_dir))
        return result

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as Trainer does, and the digest of its weights, to detect damage when the run is resumed."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            write_digest(Path(output_dir or str(self.args.output_dir)))

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Predict as Trainer does, and add our validation metrics."""
        # BatchNorm statistics differ between ranks during training. Use those of rank 0, whose model is saved.
        if self.args.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        output = self.in_order_of_data(dataloader, output)
        # Trainer's `compute_metrics` would be called for every data set, but these metrics are for validation only.
        if metric_key_prefix != "eval" or output.predictions is None:
            return output
        labels: Any = output.label_ids
        scores = self.validation_metrics(EvalPrediction(output.predictions, labels))
        metrics = (output.metrics or {}) | {f"eval_{name}": value for name, value in scores.items()}
        return output._replace(metrics=metrics)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Update the best metric as Trainer does, but prefer the latest of equally good checkpoints."""
        # A step that saves no checkpoint cannot be the best one if that is loaded at the end.
        saves = self.control.should_save or self.args.save_strategy == SaveStrategy.BEST
        if self.args.load_best_model_at_end and not saves:
            return False
        if super()._determine_best_metric(metrics, trial):
            return True
        # Scores on small validation sets saturate early, while the model still improves. So a tie goes to the latest.
        if metrics[f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"] != self.state.best_metric:
            return False
        self.state.best_global_step = self.state.global_step
        return True

    @property
    def loaded_step(self) -> int | None:
        """The step of the checkpoint that was loaded after training; None if the last weights are used."""
        folder = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        return None if folder is None else int(Path(folder).name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"))

    def in_order_of_data(self, dataloader: DataLoader, output: EvalLoopOutput) -> EvalLoopOutput:
        """Return the predictions in the order of the rows. Subclasses that read rows in another order override it."""
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as Trainer does, and add to each loss the share of time spent waiting for data since the last one."""
        if "loss" in logs:
            waited, trained = self.data_wait_seconds, self.train_seconds
            since = waited - self.seconds_at_log[0], trained - self.seconds_at_log[1]
            self.seconds_at_log = waited, trained
            logs["data_wait_share"] = round(since[0] / max(sum(since), 1e-9), 4)  # 1e-9 avoids a division by 0
            self.warn_of_waiting()
        super().log(logs, start_time)

    def warn_of_waiting(self) -> None:
        """Log one warning, with advice, if training spends much of its time waiting for data."""
        seconds = self.data_wait_seconds + self.train_seconds
        if self.warned_of_waiting or seconds < SETTLED_SECONDS or self.data_wait_share < LONG_WAIT:
            return
        self.warned_of_waiting = True
        share = 100 * self.data_wait_share
        logger.warning("training spends %.0f %% of its time waiting for data. %s", share, self.waiting_remedy)

    @property
    def waiting_remedy(self) -> str:
        """Advice for the user on how to load data faster."""
        threads, workers = torch.get_num_threads(), self.args.dataloader_num_workers
        if not cores_are_contended((threads + workers) * processes_of_this_host()):
            return f"Increase dataloader_num_workers (currently {workers}), or use cheaper items."
        busy = f"Other programs are using the cores (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
        if threads > 1:
            return f"{busy}. Set num_threads to 1 (currently {threads})."
        return f"{busy}. Stop them, or wait until they end."

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        # transformers estimates operations per token, and would count every feature of a frame as a token.
        return 0

    @property
    def data_wait_share(self) -> float:
        """The share of training time (0 to 1) spent waiting for data; 0 before the first step."""
        total = self.data_wait_seconds + self.train_seconds
        return self.data_wait_seconds / total if total else 0.0
