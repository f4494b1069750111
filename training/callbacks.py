"""Trainer callbacks: stop on SIGTERM, stop early, and set the epoch of the sampler."""

import logging
import signal
import threading
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.samplers import EpochSampler, PrefetchingSampler

logger = logging.getLogger(__name__)

EXIT_CODE = 128 + signal.SIGTERM  # the status that a shell reports for a program killed by SIGTERM


class StopOnSigterm(TrainerCallback):
    """Save a checkpoint and stop after the current step when any rank gets SIGTERM; all ranks stop at the same step.

    Slurm and spot instances announce preemption with SIGTERM.
    """

    def __init__(self) -> None:
        self.requested = False
        self.stopped_at: int | None = None  # optimizer steps
        self.previous_handler: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Python allows only the main thread to set signal handlers.
        if threading.current_thread() is threading.main_thread():
            self.previous_handler = signal.signal(signal.SIGTERM, self.request_stop)

    def request_stop(self, number: int, frame: Any) -> None:
        # The handler only sets a flag: it can run in the middle of a step, when the weights are inconsistent.
        self.requested = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.requested_on_any_rank(args):
            control.should_save = control.should_training_stop = True
            self.stopped_at = state.global_step

    def requested_on_any_rank(self, args: TrainingArguments) -> bool:
        """Return whether any rank got the signal, with the same result on all ranks."""
        if args.world_size == 1:
            return self.requested
        # A rank that stopped alone would leave the others waiting for its gradients.
        requested = torch.tensor(int(self.requested), device=args.device)
        torch.distributed.all_reduce(requested, torch.distributed.ReduceOp.MAX)
        return bool(requested)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Trainer ends the epoch after the last step. Validating or saving here would draw random numbers that an
        # uninterrupted run does not draw at this step, so the resumed run would differ from it.
        if self.stopped_at is not None:
            control.should_evaluate = control.should_save = control.should_log = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.previous_handler is not None:
            signal.signal(signal.SIGTERM, self.previous_handler)

    def exit_if_stopped(self, output_dir: str) -> None:
        """Exit the program with `EXIT_CODE` if training was interrupted, before it is scored or saved as finished."""
        if self.stopped_at is not None:
            logger.warning(
                "SIGTERM: stopped after step %d and saved a checkpoint in %s. Run the same command with "
                "--resume_from_checkpoint true to continue.",
                self.stopped_at,
                output_dir,
            )
            raise SystemExit(EXIT_CODE)


class StopWithoutProgress(TrainerCallback):
    """Stop training after `patience` validations in a row with neither a new best score nor a new lowest loss."""

    # On small validation sets the score saturates at its maximum. The loss then shows if the model still improves.

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        chosen_by = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
        signs = {"eval_loss": -1, chosen_by: 1 if args.greater_is_better else -1}
        # Count from the log instead of keeping a counter: checkpoints contain the log, so a resumed run stops at the
        # same validation as an uninterrupted one.
        validations = [entry for entry in state.log_history if "eval_loss" in entry]
        since_best = []
        for name, sign in signs.items():
            values = np.array([sign * entry[name] for entry in validations], np.float64)
            best = np.argmax(np.where(np.isnan(values), -np.inf, values))  # argmax returns the first of equal values
            since_best.append(len(values) - 1 - best)
        if min(since_best) >= self.patience:
            control.should_training_stop = True


class EpochOfSampler(TrainerCallback):
    """Set the epoch of the sampler at the start of each epoch."""

    # Accelerate's loader wrappers should do this, but do not in some combinations of ranks and resuming.

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        epoch = state.epoch or 0
        # After a resume in the middle of an epoch, state.epoch has a fraction: the share of this epoch that is done.
        self.sampler.set_epoch(int(epoch))
        if isinstance(self.sampler, PrefetchingSampler) and not args.ignore_data_skip:
            self.sampler.skip(epoch - int(epoch))  # above 0 if the run resumes in the middle of an epoch
