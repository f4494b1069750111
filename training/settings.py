"""Settings that every run has: its data and model, and Trainer's arguments with our defaults.

The fields of these dataclasses are the keys of a config. They also make the parser, `--help` and the tables of keys.
They are read before anything that takes seconds to import.
"""

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

# Classes of torch.optim.lr_scheduler, which count optimizer steps like all schedulers of Trainer: the arguments that
# each needs, and those that it may have. OneCycleLR's total_steps is that of the run.
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
PLATEAU = "reduce_lr_on_plateau"  # transformers' name of ReduceLROnPlateau
PLATEAU_ARGUMENTS = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps")
SCHEDULER_ALIASES = {"step": "StepLR", "exponential": "ExponentialLR", "ReduceLROnPlateau": PLATEAU}
OPTIMIZER_ALIASES = {"adamw": "adamw_torch_fused"}
DICTS = ("model_config", "feature_config", "s3", "learning_rates", "encoder")  # keys whose values have keys
# Values of keys of TrainingArguments that only we know.
OUR_VALUES = {"lr_scheduler_type": (*TORCH_SCHEDULERS, *SCHEDULER_ALIASES), "optim": ("adam", *OPTIMIZER_ALIASES)}
WEIGHTS_SUFFIXES = (".pt", ".safetensors")  # of a published encoder
OTHER_FRONT_END = re.compile(r"(?<![a-z])(hop|mels)_\d+")  # in such a file's name
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

    `{tasks}` and `{metrics}` in it are filled in by launch/settings.py, which knows the tasks.
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
        None, "Threads of torch; by default OMP_NUM_THREADS, or cores / processes of this host. Small models: 1."
    )


@dataclass
class TrainingKeys:
    """The keys of training that are ours, or whose default is; the others are those of TrainingArguments."""

    output_dir: str | None = setting(None, "Folder of the run; by default outputs/<name of the config>.")
    optim: str = setting("adamw", "Optimizer: adamw, adam, sgd (optim_args momentum=0.9), or another of transformers.")
    lr_scheduler_type: str = setting(
        "cosine",
        "Schedule: cosine, linear, constant or another of transformers; ReduceLROnPlateau, which counts validations; "
        "StepLR, ExponentialLR, CosineAnnealingLR or OneCycleLR, which count optimizer steps. lr_scheduler_kwargs has "
        "its arguments, by their names in torch.",
    )
    learning_rate: float = setting(1e-3, "Peak learning rate.")
    num_train_epochs: float = setting(
        30.0, "Passes over the training data; of batches by plan, epochs of min_epoch_steps optimizer steps or more."
    )
    per_device_eval_batch_size: int = setting(32, "Items of an evaluation batch, a process.")
    eval_strategy: Literal["no", "steps", "epoch"] = setting("epoch", "Validate each: no, steps, epoch.")
    save_strategy: Literal["no", "steps", "epoch", "best"] = setting(
        "epoch", "Checkpoint each: no, steps, epoch, best."
    )
    save_total_limit: int | None = setting(2, "Checkpoints kept, the best always among them.")
    load_best_model_at_end: bool = setting(True, "End with the best on validation.")
    metric_for_best_model: str | None = setting(
        None, "The validation metric that decides; by default the task's first: {metrics}."
    )
    greater_is_better: bool | None = setting(None, "Whether more of it is better; by default what the metric means.")
    prefetch_batches: int = setting(
        8, "Batches whose raw files are fetched ahead, where items read raw files; 0: none."
    )
    early_stopping_patience: int = setting(
        0,
        "Stop after this many validations in a row with neither a better metric_for_best_model nor a lower loss; 0: "
        "never.",
    )
    logging_steps: float = setting(10, "Log every n optimizer steps.")
    report_to: None | str | list[str] = setting("tensorboard", "Trackers: tensorboard, wandb, mlflow, ..., or none.")
    remove_unused_columns: bool = setting(False, "Leave false: items are not table rows.")
    dataloader_pin_memory: bool = setting(False, "Pinned memory; true helps on a GPU.")
    ddp_find_unused_parameters: bool | None = setting(False, "Leave false: our models use all of their parameters.")
    seed: int = setting(0, "Seed of weights, order, windows and dropout.")


def check_training(training: Any) -> None:
    """Refuse what is wrong between the keys of training."""
    for problem in _problems(training):
        raise ValueError(problem)


def _problems(training: Any) -> Iterator[str]:
    schedule = SCHEDULER_ALIASES.get(training.lr_scheduler_type, training.lr_scheduler_type)
    if schedule in (PLATEAU, "OneCycleLR") and training.warmup_steps:
        yield f"lr_scheduler_type={schedule}: not together with warmup_steps. Set one of the two."
    yield from _problems_of_schedule(str(schedule), training.lr_scheduler_kwargs or {})
    if training.num_train_epochs <= 0 and training.max_steps <= 0:
        yield f"num_train_epochs = {training.num_train_epochs} trains nothing; it takes a number above 0"
    for key in ("early_stopping_patience", "prefetch_batches"):
        if getattr(training, key) < 0:
            yield f"{key}={getattr(training, key)}: below 0. Give 0 or more."
    if training.early_stopping_patience and not training.load_best_model_at_end:
        yield "early_stopping_patience needs load_best_model_at_end true, or the worst is kept"
    for key, value in KEPT_AS_IT_IS.items():
        if getattr(training, key) != value:
            yield f"{key} = {getattr(training, key)!r} has no meaning here; leave it out"


def _problems_of_schedule(name: str, given: dict[str, Any] | str) -> Iterator[str]:
    """Arguments of a scheduler of torch that it lacks or does not know, before torch is imported."""
    needed, others = TORCH_SCHEDULERS.get(name, ((), PLATEAU_ARGUMENTS if name == PLATEAU else None))
    if others is None:
        return
    try:
        options = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError:
        yield f"lr_scheduler_kwargs={given}: not valid JSON. Give an object of names and values."
        return
    if not isinstance(options, dict):
        yield f"lr_scheduler_kwargs={given}: not an object. Give an object of names and values."
        return
    taken = ", ".join((*needed, *others))
    for key in options.keys() - {*needed, *others}:
        yield f"lr_scheduler_kwargs.{key}: not an argument of {name} here. Give one of {taken}."
    for key in needed:
        if key not in options:
            yield f"lr_scheduler_kwargs: {name} needs {key}. Its arguments are {taken}."
    for key in ("step_size", "T_max"):
        steps = options.get(key, 1)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            yield f"lr_scheduler_kwargs.{key}={steps!r}: not a number of steps. Give 1 or more."


def check_enums(training: Any) -> None:
    """Refuse values that the enums of TrainingArguments do not have, and name the nearest one."""
    for key, hint in get_type_hints(installed_keys()).items():
        for kind in get_args(hint):
            value, ours = getattr(training, key), OUR_VALUES.get(key, ())
            if not (isinstance(kind, type) and issubclass(kind, Enum)) or value in ours:
                continue
            try:
                kind(value)
            except ValueError as error:
                names = {name.lower().replace("_", ""): name for name in (*ours, *(item.value for item in kind))}
                nearest = difflib.get_close_matches(str(value).lower().replace("_", ""), names, n=1, cutoff=0.5)
                if not nearest:
                    raise
                raise ValueError(f"{key}={value}: not known. Did you mean {names[nearest[0]]!r}?") from error


@functools.cache
def training_keys() -> type[TrainingKeys]:
    """All keys of training, as a dataclass: those of TrainingArguments, then ours in their places."""
    return dataclass(type("AllTrainingKeys", (TrainingKeys, installed_keys()), {}))


class TaskSettings:
    """A dataclass of dataclasses, whose fields are a task's keys, and the facts that a command line needs of it."""

    validation_metrics: ClassVar[dict[str, bool]]  # name -> whether more is better; the first is the default
    streamed: ClassVar[tuple[str, ...]] = ()  # columns that `streaming` leaves on S3
    not_streamed: ClassVar[str] = ""  # the reason, if there are none


def check_part_rates(rates: dict[str, float]) -> None:
    """Refuse learning rates of parts that are not above 0."""
    for part, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
            raise ValueError(f"learning_rates.{part}={rate!r}: not a rate. Give a number above 0.")


def check_front_end(key: str, name: str | Path) -> None:
    """Refuse a published file of EfficientAT whose weights want other features: their shapes do not tell."""
    file = Path(name)
    if file.suffix in WEIGHTS_SUFFIXES and (other := OTHER_FRONT_END.search(file.stem)):
        raise ValueError(
            f"{key}={name}: by its name ({other[0]}) it needs other features than those made here, of 10 ms and 128 "
            "mel bands. Give a file of these, such as mn10_as_mAP_471.pt."
        )


def check_folder(name: str) -> None:
    """Refuse a misspelt folder, which would be looked for on the Hub, slowly; a file; and a web address."""
    refuse_web_address("dataset", name)
    folder = Path(name)
    if not is_remote(name) and not folder.exists() and folder.parent.name and folder.parent.is_dir():
        found = ", ".join(sorted(str(card.parent) for card in folder.parent.glob("*/README.md")))
        raise ValueError(f"dataset = {name!r}: no such folder; there is {found or 'no data set next to it'}")
    if folder.is_file():
        raise ValueError(f"dataset = {name!r} is a file; it takes a folder such as hf_datasets/pmemo, or a Hub name")
