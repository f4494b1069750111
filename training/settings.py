"""Settings shared by all runs: data, model, and Trainer's arguments with our defaults.

The fields of these dataclasses are the config keys. They also define the command-line parser, `--help` and the
generated configuration reference.
"""

# Keep this module free of imports of torch and transformers: they take seconds, and the user should see `--help` or a
# misspelt key at once.

import difflib
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_type_hints

from system.storage import OPTIONS, is_remote, refuse_web_address
from training.trainer_keys import installed_keys

# Class in torch.optim.lr_scheduler -> (required arguments, optional arguments). They are listed here so that a wrong
# argument is reported before torch is imported. All of these count optimizer steps, like Trainer's own schedulers.
# OneCycleLR's `total_steps` is missing on purpose: it is the number of steps in the run.
TORCH_SCHEDULERS = {
    "StepLR": (("step_size",), ("gamma",)),
    "ExponentialLR": (("gamma",), ()),
    "CosineAnnealingLR": (("T_max",), ("eta_min",)),
    "OneCycleLR": (
        (),
        (
            "max_lr", "pct_start", "anneal_strategy", "cycle_momentum", "base_momentum", "max_momentum", "div_factor",
            "final_div_factor", "three_phase",
        ),
    ),
}  # fmt: skip
PLATEAU = "reduce_lr_on_plateau"  # transformers' name for ReduceLROnPlateau
PLATEAU_ARGUMENTS = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps")
SCHEDULER_ALIASES = {"step": "StepLR", "exponential": "ExponentialLR", "ReduceLROnPlateau": PLATEAU}
OPTIMIZER_ALIASES = {"adamw": "adamw_torch_fused"}
DICTS = ("model_config", "feature_config", "s3", "learning_rates", "encoder")  # keys that hold an object of keys
# Values that we add to keys of TrainingArguments.
OUR_VALUES = {"lr_scheduler_type": (*TORCH_SCHEDULERS, *SCHEDULER_ALIASES), "optim": ("adam", *OPTIMIZER_ALIASES)}
WEIGHTS_SUFFIXES = (".pt", ".safetensors")  # of a published encoder
# Published EfficientAT checkpoints name a non-default front end in the file name, as in mn10_as_hop_15_mAP_463.pt.
OTHER_FRONT_END = re.compile(r"(?<![a-z])(hop|mels)_\d+")
SECRET_KEYS = ("hub_token",)
# Keys of TrainingArguments that must keep this value, because our items, sampling order and scores depend on it.
FIXED_KEYS = {
    "train_sampling_strategy": "random",  # the order comes from our samplers
    "remove_unused_columns": False,  # items are made by our data sets, not selected from columns
    "prediction_loss_only": False,  # the scores need predictions
    "label_smoothing_factor": 0.0,  # our losses do not implement it
    "eval_do_concat_batches": True,  # the scores are computed from one array over all items
    "auto_find_batch_size": False,  # a sampler is built for one batch size
}
# These keys belong to one invocation. They are left out of run_config.json, which must describe the run itself.
NOT_RECORDED = ("resume_from_checkpoint", "push_to_hub")


def setting(default: Any, meaning: str) -> Any:
    """Define a config key by its default and its help text.

    launch/settings.py, which knows the tasks, fills in `{tasks}` and `{metrics}`.
    """
    return field(default=default, metadata={"help": meaning})


@dataclass
class RunArguments:
    """Keys that select the task, the model and the data."""

    task: str = setting("eda", "Task to train: {tasks}.")
    model_type: str = setting(
        "tcn", "Architecture of a new model: a `model_type` that the task supports, such as tcn or wavenet."
    )
    model_config: dict = field(
        default_factory=dict,
        metadata={
            "help": "Settings of a new model, as an object; the default {} keeps the model's own defaults. On the "
            "command line: --model_config.num_channels 32."
        },
    )
    feature_config: dict = field(
        default_factory=dict,
        metadata={
            "help": "Settings of the audio feature extractor, as an object; the default {} keeps the extractor's own "
            "defaults. On the command line: --feature_config.num_mel_bins 64."
        },
    )
    model_name_or_path: str | None = setting(
        None,
        "Saved model to fine-tune, with its feature extractor: a folder or a name on the Hub. null trains a new one.",
    )
    dataset: str = setting(
        "hf_datasets/pmemo", "Data set: a folder, an s3:// prefix written by `prepare`, or a name on the Hub."
    )
    dataset_config: str | None = setting(
        None, "Configuration of the data set, such as `sample`; null uses the default configuration of the data set."
    )
    s3: dict = field(
        default_factory=dict,
        metadata={
            "help": f"S3 connection options, as an object with any of {', '.join(OPTIONS)}. The default {{}} uses the "
            "AWS environment. Never put credentials here."
        },
    )
    streaming: bool = setting(
        False, "Read the shards of an s3:// data set as they are needed, instead of copying all of them first."
    )
    streaming_cache_gb: float = setting(8.0, "Disk cache for streamed shards, in GB per process.")
    preprocessing_processes: int = setting(
        1, "Number of processes that compute features (`num_proc` of Dataset.map); 1 or more."
    )
    num_threads: int | None = setting(
        None,
        "CPU threads per process for torch. null uses OMP_NUM_THREADS if it is set, otherwise cores divided by the "
        "processes on this host. For small models 1 is often fastest.",
    )


@dataclass
class TrainingKeys:
    """Training keys that we add to TrainingArguments, or whose default we change."""

    output_dir: str | None = setting(None, "Folder of the run; null uses outputs/<name of the config>.")
    optim: str = setting(
        "adamw", "Optimizer: adamw, adam, sgd (with optim_args momentum=0.9), or any other that transformers supports."
    )
    lr_scheduler_type: str = setting(
        "cosine",
        "Learning rate schedule: cosine, linear, constant or any other that transformers supports; ReduceLROnPlateau, "
        "which counts validations; or StepLR, ExponentialLR, CosineAnnealingLR or OneCycleLR, which count optimizer "
        "steps. Put the arguments of the schedule in lr_scheduler_kwargs, under their names in torch.",
    )
    learning_rate: float = setting(1e-3, "Peak learning rate.")
    num_train_epochs: float = setting(
        30.0,
        "Number of epochs. An epoch is one pass over the training data or, for batches drawn by the detection "
        "sampler, at least min_epoch_steps optimizer steps.",
    )
    per_device_eval_batch_size: int = setting(32, "Items per evaluation batch and process.")
    eval_strategy: Literal["no", "steps", "epoch"] = setting(
        "epoch", "When to validate: no, steps (every eval_steps optimizer steps) or epoch."
    )
    save_strategy: Literal["no", "steps", "epoch", "best"] = setting(
        "epoch",
        "When to save a checkpoint: no, steps (every save_steps optimizer steps), epoch, or best (after each new best "
        "validation).",
    )
    save_total_limit: int | None = setting(
        2, "Number of checkpoints to keep; the best one is never deleted. null keeps all."
    )
    load_best_model_at_end: bool = setting(
        True, "Whether to load the checkpoint with the best validation score after training."
    )
    metric_for_best_model: str | None = setting(
        None, "Validation metric that selects the best checkpoint; null uses the first metric of the task: {metrics}."
    )
    greater_is_better: bool | None = setting(
        None, "Whether a higher metric_for_best_model is better; null uses the direction of the metric."
    )
    prefetch_batches: int = setting(
        8, "Number of batches whose raw files are downloaded ahead, for items that read raw files; 0 disables it."
    )
    early_stopping_patience: int = setting(
        0,
        "Early-stopping patience: stop after this many validations in a row with neither a better "
        "metric_for_best_model nor a lower loss; 0 disables it.",
    )
    logging_steps: float = setting(10, "Log every N optimizer steps; a number below 1 is a share of all steps.")
    report_to: None | str | list[str] = setting(
        "tensorboard",
        "Experiment trackers: tensorboard, wandb, mlflow or any other that transformers supports; or none.",
    )
    remove_unused_columns: bool = setting(False, "Must stay false: items are not rows of a table.")
    dataloader_pin_memory: bool = setting(
        False, "Whether to use pinned host memory; true speeds up training on a GPU."
    )
    ddp_find_unused_parameters: bool | None = setting(
        False, "Leave this false: every parameter of our models is used in each step."
    )
    seed: int = setting(0, "Random seed for weights, sampling order, windows and dropout.")


def check_training(training: Any) -> None:
    """Raise ValueError for training keys that are out of range or contradict each other."""
    # Only the first problem is reported: later ones often follow from it.
    for problem in _problems(training):
        raise ValueError(problem)


def _problems(training: Any) -> Iterator[str]:
    schedule = SCHEDULER_ALIASES.get(training.lr_scheduler_type, training.lr_scheduler_type)
    if schedule in (PLATEAU, "OneCycleLR") and training.warmup_steps:
        yield f"lr_scheduler_type={schedule}: cannot be combined with warmup_steps. Set one of the two."
    yield from _problems_of_schedule(str(schedule), training.lr_scheduler_kwargs or {})
    if training.num_train_epochs <= 0 and training.max_steps <= 0:
        yield f"num_train_epochs={training.num_train_epochs}: must be above 0. Give a positive number, or max_steps."
    for key in ("early_stopping_patience", "prefetch_batches"):
        if getattr(training, key) < 0:
            yield f"{key}={getattr(training, key)}: must not be negative. Give 0 or more."
    # Training stops some validations after the best one, so without this the saved model would be a worse one.
    if training.early_stopping_patience and not training.load_best_model_at_end:
        yield (
            f"early_stopping_patience={training.early_stopping_patience}: needs load_best_model_at_end=true, because "
            "the last model is not the best one. Set it, or remove early_stopping_patience."
        )
    for key, value in FIXED_KEYS.items():
        if getattr(training, key) != value:
            yield f"{key}={getattr(training, key)!r}: must stay {value!r}. Remove the key."


def _problems_of_schedule(name: str, given: dict[str, Any] | str) -> Iterator[str]:
    """Yield missing, unknown and wrong arguments of a scheduler, without importing torch."""
    required, optional = TORCH_SCHEDULERS.get(name, ((), PLATEAU_ARGUMENTS if name == PLATEAU else None))
    if optional is None:  # one of transformers' schedulers, which checks its own arguments
        return
    try:
        options = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError:
        yield f"lr_scheduler_kwargs={given}: not valid JSON. Give an object of names and values."
        return
    if not isinstance(options, dict):
        yield f"lr_scheduler_kwargs={given}: not an object. Give an object of names and values."
        return
    allowed = ", ".join((*required, *optional))
    for key in options.keys() - {*required, *optional}:
        yield f"lr_scheduler_kwargs.{key}: unknown argument of {name}. Give one of {allowed}."
    for key in required:
        if key not in options:
            yield f"lr_scheduler_kwargs: {name} needs {key}. Its arguments are {allowed}."
    for key in ("step_size", "T_max"):
        steps = options.get(key, 1)
        # bool is a subclass of int, so `true` would pass as 1.
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            yield f"lr_scheduler_kwargs.{key}={steps!r}: must be a number of steps. Give an integer of 1 or more."


def check_enums(training: Any) -> None:
    """Raise ValueError for a value that an enum of TrainingArguments lacks, and suggest the closest one."""
    for key, hint in get_type_hints(installed_keys()).items():
        for kind in get_args(hint):
            value, ours = getattr(training, key), OUR_VALUES.get(key, ())
            if not (isinstance(kind, type) and issubclass(kind, Enum)) or value in ours:
                continue
            try:
                kind(value)
            except ValueError as error:
                # Compare without case and underscores, so that OneCycle and one_cycle both suggest OneCycleLR.
                names = {name.lower().replace("_", ""): name for name in (*ours, *(item.value for item in kind))}
                nearest = difflib.get_close_matches(str(value).lower().replace("_", ""), names, n=1, cutoff=0.5)
                if not nearest:
                    raise  # the message of the enum lists all values
                raise ValueError(f"{key}={value!r}: unknown value. Did you mean {names[nearest[0]]!r}?") from error


@functools.cache
def training_keys() -> type[TrainingKeys]:
    """Return a dataclass of all training keys: the fields of TrainingArguments, overridden by ours."""
    return dataclass(type("AllTrainingKeys", (TrainingKeys, installed_keys()), {}))


class TaskSettings:
    """Base class for the settings of a task: a dataclass of dataclasses whose fields are the task's keys."""

    validation_metrics: ClassVar[dict[str, bool]]  # name -> whether higher is better; the first one is the default
    streamed: ClassVar[tuple[str, ...]] = ()  # columns that `streaming` leaves on S3
    not_streamed: ClassVar[str] = ""  # why the task does not support `streaming`


def check_part_rates(rates: dict[str, float]) -> None:
    """Raise ValueError unless each learning rate is a positive number."""
    for part, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
            raise ValueError(f"learning_rates.{part}={rate!r}: must be a number above 0. Give a positive rate.")


def check_front_end(key: str, name: str | Path) -> None:
    """Raise ValueError for published EfficientAT weights that were trained on other audio features.

    The file name is the only sign: the weights have the same shapes.
    """
    file = Path(name)
    if file.suffix in WEIGHTS_SUFFIXES and (other := OTHER_FRONT_END.search(file.stem)):
        raise ValueError(
            f"{key}={name}: these weights ({other[0]}) need other features than the supported 10 ms hop and 128 mel "
            "bands. Give weights for those features, such as mn10_as_mAP_471.pt."
        )


def check_folder(name: str) -> None:
    """Raise ValueError for a misspelt folder, a file or a web address."""
    refuse_web_address("dataset", name)
    folder = Path(name)
    # `datasets` would take a misspelt folder for a Hub name, and report it only after slow requests.
    if not is_remote(name) and not folder.exists() and folder.parent.name and folder.parent.is_dir():
        data_sets = ", ".join(sorted(str(card.parent) for card in folder.parent.glob("*/README.md")))
        remedy = f"Give one of {data_sets}." if data_sets else "Give a folder, an s3:// prefix or a Hub name."
        raise ValueError(f"dataset={name!r}: folder not found. {remedy}")
    if folder.is_file():
        raise ValueError(f"dataset={name!r}: is a file. Give a folder such as hf_datasets/pmemo, or a Hub name.")
