"""Trainer callbacks: stop on SIGTERM or without progress, and set the sampler's epoch."""

import logging
import signal
import threading
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.samplers import EpochSampler, PrefetchingSampler

logger = logging.getLogger(__name__)

EXIT_CODE = 128 + signal.SIGTERM  # as a shell reports a program that the signal ended


class StopOnSigterm(TrainerCallback):
    """Ends training after the step in which SIGTERM comes to any rank, on all ranks at the same step."""

    def __init__(self) -> None:
        self.asked = False
        self.stopped_at: int | None = None  # optimizer steps
        self.before: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen, for as long as there is something to save. Only a main thread may."""
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self.note)

    def note(self, number: int, frame: Any) -> None:
        """A handler does as little as can be: the step ends first."""
        self.asked = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop, if any rank was asked to."""
        if self.any_rank_was_asked(args):
            control.should_save = control.should_training_stop = True
            self.stopped_at = state.global_step

    def any_rank_was_asked(self, args: TrainingArguments) -> bool:
        """The same answer on all ranks: one that stopped alone would leave the others waiting for its gradients."""
        if args.world_size == 1:
            return self.asked
        asked = torch.tensor(int(self.asked), device=args.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return bool(asked)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An epoch that was cut short is neither validated nor saved again: its random numbers would have moved on."""
        if self.stopped_at is not None:
            control.should_evaluate = control.should_save = control.should_log = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the signal to whom it belonged."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def leave(self, output_dir: str) -> None:
        """End the program where training was cut short; what comes after it is for a run that is whole."""
        if self.stopped_at is not None:
            logger.warning(
                "SIGTERM: stopped after step %d with a checkpoint in %s; the same command with "
                "--resume_from_checkpoint true goes on from it",
                self.stopped_at,
                output_dir,
            )
            raise SystemExit(EXIT_CODE)


class StopWithoutProgress(TrainerCallback):
    """Ends training after `patience` validations in a row with neither the best score nor the lowest loss so far.

    A score of few clips saturates: while it stays at its best, the loss says whether the model still improves. All
    follows from the log, which a checkpoint holds: a resumed run stops where the whole one does.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop, if the last progress is too long ago."""
        chosen_by = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
        signs = {"eval_loss": -1, chosen_by: 1 if args.greater_is_better else -1}
        validations = [entry for entry in state.log_history if "eval_loss" in entry]
        since_best = []
        for name, sign in signs.items():
            values = np.array([sign * entry[name] for entry in validations], np.float64)
            best = np.argmax(np.where(np.isnan(values), -np.inf, values))  # the first of equally good ones
            since_best.append(len(values) - 1 - best)
        if min(since_best) >= self.patience:
            control.should_training_stop = True


class EpochOfSampler(TrainerCallback):
    """Tells the sampler its epoch. Accelerate's wrappers forget to in some arrangements of ranks and resuming."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        epoch = state.epoch or 0
        self.sampler.set_epoch(int(epoch))
        if isinstance(self.sampler, PrefetchingSampler) and not args.ignore_data_skip:
            self.sampler.skip(epoch - int(epoch))  # more than 0 where a run resumes in the middle of an epoch
