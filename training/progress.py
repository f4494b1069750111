"""Show one progress bar at a time, one line per logged loss or validation, and log messages on their own lines."""

import logging
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

TIMES = ("runtime", "samples_per_second", "steps_per_second")  # logged by Trainer with each validation; not shown


class HandlerAroundBars(logging.StreamHandler):
    """A log handler that clears the progress bar while it writes, so that messages start on a new line."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class ProgressBar(TrainerCallback):
    """Show one bar: for training, with the progress of validation at its end, or for scoring after training."""

    def __init__(self) -> None:
        self.training: tqdm | None = None
        self.scoring: tqdm | None = None
        self.validated = 0  # batches

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.training = tqdm(
                total=state.max_steps, initial=state.global_step, desc="training", unit="step", dynamic_ncols=True
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training is not None:
            self.training.update(state.global_step - self.training.n)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        batches = len(kwargs["eval_dataloader"])
        if self.training is not None:
            self.validated += 1
            # refresh=True would redraw the bar for each batch. update(0) redraws it at the usual rate.
            self.training.set_postfix_str(f"validation: {self.validated} of {batches} batches", refresh=False)
            self.training.update(0)
            return
        if self.scoring is None:
            self.scoring = tqdm(total=batches, desc="scoring", unit="batch", leave=False, dynamic_ncols=True)
        self.scoring.update()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.validated = 0
        if self.training is not None:
            self.training.set_postfix_str("", refresh=False)
        self.end_scoring()

    def on_predict(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.end_scoring()

    def end_scoring(self) -> None:
        """Remove the scoring bar."""
        if self.scoring is not None:
            self.scoring.close()
            self.scoring = None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.training is not None:
            # tqdm's write moves the bar down, where print would continue its line.
            self.training.write(log_line(kwargs["logs"], state.global_step))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training is not None:
            self.training.close()
            self.training = None


def log_line(logs: dict[str, Any], step: int) -> str:
    """Format one entry of Trainer's log as a line: a training loss, a validation, or the end of training."""
    if "train_runtime" in logs:
        return f"trained in {logs['train_runtime']:.0f} s, mean loss {logs['train_loss']:.3g}"
    validation = any(name.startswith("eval_") for name in logs)
    values = {name.removeprefix("eval_"): value for name, value in logs.items() if name not in ("epoch", "total_flos")}
    shown = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
        if name not in TIMES
    )
    return f"step {step}, epoch {logs.get('epoch', 0):.3g}, {'validation: ' if validation else ''}{shown}"
