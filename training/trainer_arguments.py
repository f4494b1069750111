"""Trainer's arguments with our defaults, and the schedulers and optimizers that it lacks."""

from dataclasses import dataclass, fields

from transformers import TrainingArguments

from training.settings import OPTIMIZER_ALIASES, SCHEDULER_ALIASES, TORCH_SCHEDULERS, TrainingKeys, check_training


@dataclass
class RunTrainingArguments(TrainingKeys, TrainingArguments):
    """The arguments of Trainer, made of `training_keys`."""

    def __post_init__(self) -> None:
        # TrainingArguments turns both into its enums, which know neither torch's schedulers nor plain Adam.
        scheduler, optimizer = SCHEDULER_ALIASES.get(self.lr_scheduler_type, self.lr_scheduler_type), self.optim
        metric, better = self.metric_for_best_model, self.greater_is_better
        self.lr_scheduler_type = "constant" if scheduler in TORCH_SCHEDULERS else scheduler
        self.optim = "adamw_torch" if optimizer == "adam" else OPTIMIZER_ALIASES.get(optimizer, optimizer)
        super().__post_init__()
        if scheduler in TORCH_SCHEDULERS:
            self.lr_scheduler_type = scheduler
        if optimizer == "adam":
            self.optim = optimizer
        # TrainingArguments guesses both, and whether more is better by the name: the worst RMSE would be best.
        self.metric_for_best_model, self.greater_is_better = metric, better
        check_training(self)
        self._check_choices()

    def _check_choices(self) -> None:
        """Refuse values that are none of the choices: of a file none are checked, and some are known only here."""
        for item in fields(TrainingArguments):
            choices, value = item.metadata.get("choices"), getattr(self, item.name)
            if choices and value is not None and value not in choices:
                raise ValueError(f"{item.name}={value!r}: not known. Give one of {', '.join(choices)}.")
