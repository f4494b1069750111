"""Trainer's arguments with our defaults, and with the schedulers and optimizers that Trainer lacks."""

from dataclasses import dataclass, fields

from transformers import TrainingArguments

from training.settings import OPTIMIZER_ALIASES, SCHEDULER_ALIASES, TORCH_SCHEDULERS, TrainingKeys, check_training


@dataclass
class RunTrainingArguments(TrainingKeys, TrainingArguments):
    """Trainer's arguments. The fields are those of `training_keys`."""

    def __post_init__(self) -> None:
        # TrainingArguments converts both to enums, which have neither torch's schedulers nor plain Adam. So hide these
        # values from it, and put them back afterwards.
        scheduler, optimizer = SCHEDULER_ALIASES.get(self.lr_scheduler_type, self.lr_scheduler_type), self.optim
        metric, better = self.metric_for_best_model, self.greater_is_better
        self.lr_scheduler_type = "constant" if scheduler in TORCH_SCHEDULERS else scheduler
        self.optim = "adamw_torch" if optimizer == "adam" else OPTIMIZER_ALIASES.get(optimizer, optimizer)
        super().__post_init__()
        if scheduler in TORCH_SCHEDULERS:
            self.lr_scheduler_type = scheduler
        if optimizer == "adam":
            self.optim = optimizer
        # TrainingArguments guesses both. It assumes that higher is better for any metric not named "loss", so it
        # would keep the checkpoint with the worst RMSE.
        self.metric_for_best_model, self.greater_is_better = metric, better
        check_training(self)
        self._check_choices()

    def _check_choices(self) -> None:
        # argparse checks the choices of keys on the command line, but not of keys in a config file.
        for item in fields(TrainingArguments):
            choices, value = item.metadata.get("choices"), getattr(self, item.name)
            if choices and value is not None and value not in choices:
                raise ValueError(f"{item.name}={value!r}: unknown value. Must be one of {', '.join(choices)}.")
