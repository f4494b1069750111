"""Settings that every run has: its data and model, and Trainer's arguments with our defaults.

The fields of these dataclasses are the keys of a config. They also make the parser, `--help` and the tables of keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from system.storage import OPTIONS

# Beside those of transformers: torch's own, which count optimizer steps like all schedulers of Trainer.
TORCH_SCHEDULERS = ("step", "exponential")
OPTIMIZER_ALIASES = {"adamw": "adamw_torch_fused"}
DICTS = ("model_config", "feature_config", "s3", "learning_rates", "encoder")  # keys whose values have keys
SECRET_KEYS = ("hub_token",)
# Keys of TrainingArguments whose other values our items, order or scores cannot honour.
KEPT_AS_IT_IS = {
    "train_sampling_strategy": "random",
    "remove_unused_columns": False,
    "prediction_loss_only": False,
    "label_smoothing_factor": 0.0,
    "eval_do_concat_batches": True,
    "auto_find_batch_size": False,
}
# What is asked of one invocation, and no part of what a run is.
NOT_RECORDED = ("resume_from_checkpoint", "push_to_hub")


def setting(default: Any, meaning: str) -> Any:
    """A field that is a key of the config: its default, and what `--help` says of it.

    `{tasks}` and `{metrics}` in it are filled in by launch/run.py, which knows the tasks.
    """
    return field(default=default, metadata={"help": meaning})


@dataclass
class RunArguments:
    """What is trained, on what, from where."""

    task: str = setting("eda", "What is learnt: {tasks}.")
    model_type: str = setting("tcn", "Architecture of a new model: a name known to modeling.")
    model_config: dict = field(
        default_factory=dict,
        metadata={"help": "Settings of a new model; on the command line --model_config.num_channels 32."},
    )
    feature_config: dict = field(
        default_factory=dict,
        metadata={"help": "Settings of the audio features; on the command line --feature_config.num_mel_bins 64."},
    )
    model_name_or_path: str | None = setting(
        None, "Fine-tune this saved model, a folder or a name on the Hub, with its features."
    )
    dataset: str = setting(
        "hf_datasets/pmemo", "Data set: a folder, an s3:// prefix that `prepare` wrote, or a name on the Hub."
    )
    dataset_config: str | None = setting(
        None, "Configuration of the data set, `sample` for instance; by default its default."
    )
    s3: dict = field(
        default_factory=dict,
        metadata={"help": f"How s3:// is reached: {', '.join(OPTIONS)}; never a secret, see the README."},
    )
    streaming: bool = setting(
        False, "Do not copy an s3:// data set here, but read its shards as they are needed; see the README."
    )
    streaming_cache_gb: float = setting(8.0, "Local copies of shards take at most so much in each process, GB.")
    preprocessing_processes: int = setting(1, "Processes that make the features (Dataset.map's num_proc).")
    num_threads: int | None = setting(
        None, "Threads torch takes; by default OMP_NUM_THREADS, or cores / processes of this host."
    )


@dataclass
class RunTrainingArguments(TrainingArguments):
    """Trainer's arguments with the defaults of this project, and the schedulers and optimizers that it lacks."""

    output_dir: str | None = setting(None, "Folder of the run; by default outputs/<name of the config>.")
    optim: str = setting("adamw", "Optimizer: adamw, adam, sgd (optim_args momentum=0.9), or another of transformers.")
    lr_scheduler_type: str = setting(
        "cosine",
        "Schedule: cosine, linear, constant, reduce_lr_on_plateau, any other of transformers, step "
        "(lr_scheduler_kwargs step_size, gamma) or exponential (gamma); the latter count optimizer steps.",
    )
    learning_rate: float = setting(1e-3, "Peak learning rate.")
    num_train_epochs: float = setting(30.0, "Passes over the training data; of batches by plan, over the positives.")
    per_device_eval_batch_size: int = setting(32, "Items of an evaluation batch, a process.")
    eval_strategy: IntervalStrategy | str = setting("epoch", "Validate each: no, steps, epoch.")
    save_strategy: SaveStrategy | str = setting("epoch", "Checkpoint each: no, steps, epoch, best.")
    save_total_limit: int | None = setting(2, "Checkpoints kept, the best always among them.")
    load_best_model_at_end: bool = setting(True, "End with the best on validation.")
    metric_for_best_model: str | None = setting(
        None, "The validation metric that decides; by default the task's first: {metrics}."
    )
    greater_is_better: bool | None = setting(None, "Whether more of it is better; by default what the metric means.")
    prefetch_batches: int = setting(
        8, "Batches whose raw files are fetched ahead, where items read raw files; 0: none."
    )
    early_stopping_patience: int = setting(0, "Stop after so many validations without a better one; 0: never.")
    logging_steps: float = setting(10, "Log each so many optimizer steps.")
    report_to: None | str | list[str] = setting("tensorboard", "Trackers: tensorboard, wandb, mlflow, ..., or none.")
    remove_unused_columns: bool = setting(False, "Leave false: items are not table rows.")
    dataloader_pin_memory: bool = setting(False, "Pinned memory; true helps on a GPU.")
    ddp_find_unused_parameters: bool | None = setting(False, "Leave false: our models use all of their parameters.")
    seed: int = setting(0, "Seed of weights, order, windows and dropout.")

    def __post_init__(self) -> None:
        # TrainingArguments turns both into its enums, which know neither torch's schedulers nor plain Adam.
        scheduler, optimizer = self.lr_scheduler_type, self.optim
        metric, better = self.metric_for_best_model, self.greater_is_better
        self.lr_scheduler_type = "constant" if scheduler in TORCH_SCHEDULERS else scheduler
        self.optim = "adamw_torch" if optimizer == "adam" else OPTIMIZER_ALIASES.get(optimizer, optimizer)
        super().__post_init__()
        if scheduler in TORCH_SCHEDULERS:
            self.lr_scheduler_type = scheduler
        if optimizer == "adam":
            self.optim = optimizer
        # TrainingArguments guesses both, the latter from the name: the worst RMSE would be best.
        self.metric_for_best_model, self.greater_is_better = metric, better
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        """What is wrong between the settings, one line each."""
        if self.lr_scheduler_type == "reduce_lr_on_plateau" and self.warmup_steps:
            yield "lr_scheduler_type reduce_lr_on_plateau takes no warmup_steps; set one of the two"
        if self.num_train_epochs <= 0 and self.max_steps <= 0:
            yield f"num_train_epochs = {self.num_train_epochs} trains nothing; it takes a number above 0"
        if self.early_stopping_patience and not self.load_best_model_at_end:
            yield "early_stopping_patience needs load_best_model_at_end true, or the worst is kept"
        for key, value in KEPT_AS_IT_IS.items():
            if getattr(self, key) != value:
                yield f"{key} = {getattr(self, key)!r} has no meaning here; leave it out"
