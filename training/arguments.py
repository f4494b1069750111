"""One flat JSON an experiment; the command line wins over it, and a key that nobody reads is an error.

A run's settings are a few dataclasses whose fields are the keys: RunArguments, those of the task, and Trainer's own.
The same fields make the parser, `--help` and the table of keys in the README.
"""

import argparse
import contextlib
import dataclasses
import difflib
import importlib
import json
import os
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from media.storage import OPTIONS, check_options, exit_on_sigterm

TASKS = tuple(sorted(path.stem for path in (Path(__file__).parent / "tasks").glob("[a-z]*.py")))
# Beside those of transformers: torch's own, which count optimizer steps like all schedulers of Trainer.
TORCH_SCHEDULERS = ("step", "exponential")
OPTIMIZER_ALIASES = {"adamw": "adamw_torch_fused"}
DICTS = ("model_config", "feature_config", "s3", "learning_rates")  # keys whose values have keys
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
    """A field that is a key of the config: its default, and what `--help` says of it."""
    return field(default=default, metadata={"help": meaning})


@dataclass
class RunArguments:
    """What is trained, on what, from where."""

    task: str = setting("eda", f"What is learnt: {', '.join(TASKS)}.")
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
        None,
        "The validation metric that decides; by default the task's first: eda rmse, pearson, loss; detection "
        "average_precision, roc_auc, loss; emotion emotion_weighted_f1, sentiment_weighted_f1, loss, ...; attention "
        "spearman, pearson, r2, mae, rmse, loss.",
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


@dataclass(frozen=True)
class Run:
    """Everything that a run was asked for."""

    name: str
    arguments: RunArguments
    training: RunTrainingArguments
    task: ModuleType
    task_settings: dict[type, Any]  # one instance of each of the task's dataclasses
    push_to_hub: bool  # by us, at the end: Trainer would push every checkpoint, under a card of its own

    def settings(self, kind: type) -> Any:
        """The settings of one of the task's dataclasses."""
        return self.task_settings[kind]

    def resolved(self) -> dict[str, Any]:
        """All keys with their values: a config that repeats this run, once `dataset_config` is that of the data."""
        values = dataclasses.asdict(self.arguments)
        for settings in self.task_settings.values():
            values |= dataclasses.asdict(settings)
        training = self.training.to_dict()
        left_out = [key for key in training if key.endswith("_token") or key in NOT_RECORDED]
        return values | {key: training[key] for key in sorted(training.keys() - set(left_out))}


def parse_run(argv: list[str]) -> Run:
    """Read `[config.json] [--key value ...]`; an unknown key or a wrong value ends the program with one line."""
    config, place, rest = {}, "command line", list(argv)
    if rest and not rest[0].startswith("-"):
        place = rest.pop(0)
        config = read_config(Path(place))
    try:
        return build_run(config, place, rest)
    except ValueError as error:
        raise SystemExit(f"{place}: {error}") from error


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can cause ends the program with its message alone; FELTSOUND_TRACEBACK=1 shows where it arose."""
    exit_on_sigterm()
    try:
        yield
    except (ValueError, OSError, ImportError, RuntimeError, TypeError, KeyError) as error:
        if os.environ.get("FELTSOUND_TRACEBACK"):
            raise
        message = " ".join(str(error).split())
        if not isinstance(error, ValueError):
            message = f"{type(error).__name__}: {message} (FELTSOUND_TRACEBACK=1 shows where)"
        raise SystemExit(f"{Path(sys.argv[0]).name}: {message}") from error


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a JSON file."""
    if not path.is_file():
        found = ", ".join(sorted(str(file) for file in path.parent.glob("*.json"))) or "no .json file beside it"
        raise SystemExit(f"{path}: no such config file; there is {found}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SystemExit(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    if not isinstance(config, dict):
        raise SystemExit(f"{path}: expected one JSON object of keys and values, got {type(config).__name__}")
    return config


def build_run(config: dict[str, Any], place: str, rest: list[str]) -> Run:
    """Merge the file's keys and the command line's."""
    rest, nested = take_nested(rest)
    task = load_task(command_line_value(rest, "task") or config.get("task", "eda"))
    kinds = (RunArguments, *task.ARGUMENTS, RunTrainingArguments)
    parser = make_parser(kinds)
    check_keys(config, parser, task=task.__name__.rpartition(".")[2])
    defaults = {"output_dir": str(Path("outputs") / Path(place).stem) if place.endswith(".json") else "outputs/run"}
    hints = type_hints(kinds)
    parser.set_defaults(**defaults | {key: convert(parser, hints, key, value) for key, value in config.items()})
    arguments, *task_settings, training = parser.parse_args_into_dataclasses(rest, look_for_args_file=False)
    for key, values in nested.items():
        if hasattr(arguments, key):
            setattr(arguments, key, getattr(arguments, key) | values)
            continue
        owners = [place for place, settings in enumerate(task_settings) if hasattr(settings, key)]
        if not owners:
            raise ValueError(f"{unknown_key(key, hints)} (task {task.__name__.rpartition('.')[2]!r})")
        (place,) = owners
        task_settings[place] = replace(task_settings[place], **{key: getattr(task_settings[place], key) | values})
    check_options(arguments.s3, "s3")
    check_streaming(arguments, task)
    choose_best_by(training, task)
    if training.resume_from_checkpoint is not None:
        wanted = training.resume_from_checkpoint
        training.resume_from_checkpoint = {"true": "true", "false": None}.get(wanted.lower(), wanted)
    push_to_hub, training.push_to_hub = training.push_to_hub, False
    settings = dict(zip(task.ARGUMENTS, task_settings, strict=True))
    return Run(Path(training.output_dir).name, arguments, training, task, settings, push_to_hub)


def check_streaming(arguments: RunArguments, task: ModuleType) -> None:
    """Refuse to stream what cannot be, or need not."""
    if not arguments.streaming:
        return
    if not task.STREAMED:
        raise ValueError(f"streaming: task {arguments.task!r} takes none: {task.NOT_STREAMED}; leave it out")
    if not arguments.dataset.startswith("s3://"):
        raise ValueError(
            f"streaming reads s3:// prefixes that `prepare` wrote, and dataset = {arguments.dataset!r} is none: what "
            "lies on this machine is memory-mapped already, a Hub name is downloaded; leave streaming out"
        )


def choose_best_by(training: RunTrainingArguments, task: ModuleType) -> None:
    """Check the metric that decides, and say which way is better: Trainer guesses from the name, and wrongly."""
    if training.metric_for_best_model is None:
        training.metric_for_best_model = next(iter(task.VALIDATION_METRICS))
    metric = training.metric_for_best_model.removeprefix("eval_")
    if metric not in task.VALIDATION_METRICS:
        known = ", ".join(task.VALIDATION_METRICS)
        raise ValueError(f"metric_for_best_model = {metric!r} is not known; it takes one of {known}")
    if training.greater_is_better is None:
        training.greater_is_better = task.VALIDATION_METRICS[metric]


def load_task(name: str) -> ModuleType:
    """The module of a task."""
    if name not in TASKS:
        raise ValueError(f"task = {name!r} is not known; it takes one of {', '.join(TASKS)}")
    return importlib.import_module(f"training.tasks.{name}")


def command_line_value(rest: list[str], key: str) -> str | None:
    """The last value given to --key, before there is a parser."""
    values = [value for flag, value in zip(rest, rest[1:], strict=False) if flag == f"--{key}"]
    return values[-1] if values else None


def take_nested(rest: list[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Take `--model_config.dropout 0.2` and its like out of the command line; values are JSON, else text."""
    kept, nested = [], {}
    tokens = iter(rest)
    for token in tokens:
        flag, dot, key = token.partition(".")
        if not (dot and flag.removeprefix("--") in DICTS):
            kept.append(token)
            continue
        key, equals, value = key.partition("=")
        value = value if equals else next(tokens, None)
        if value is None:
            raise ValueError(f"{token} needs a value")
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            pass  # a bare word: the text itself
        nested.setdefault(flag.removeprefix("--"), {})[key] = value
    return kept, nested


def make_parser(kinds: tuple[type, ...]) -> HfArgumentParser:
    """A parser over all keys; one line a mistake."""
    parser = RunParser(
        kinds,
        prog="run_train.py",
        usage="accelerate launch run_train.py [config.json] [--key value ...]",
        description="Train a model on what a config names. A key on the command line wins over the file. Keys of "
        "another task are listed by --task <name> --help.",
        allow_abbrev=False,
    )
    hints = type_hints(kinds)
    for action in parser._actions:
        if action.dest in DICTS:
            action.type = json_object
        elif type(None) in typing.get_args(hints.get(action.dest)) and action.type in (int, float, str):
            action.type = nullable(action.type)
    return parser


def type_hints(kinds: tuple[type, ...]) -> dict[str, Any]:
    """The type of every key."""
    return {key: hint for kind in kinds for key, hint in typing.get_type_hints(kind).items()}


def nullable(kind: type) -> typing.Callable[[str], Any]:
    """A reader of the command line that takes null too."""

    def read(text: str) -> Any:
        return None if text in ("null", "None") else kind(text)

    read.__name__ = f"{kind.__name__} or null"  # argparse names it in its messages
    return read


class RunParser(HfArgumentParser):
    """An argument parser whose mistakes are errors of ours: one line with the nearest valid key."""

    def error(self, message: str) -> typing.NoReturn:
        raise ValueError(message)

    def parse_args_into_dataclasses(self, args: list[str], **options: Any) -> tuple[Any, ...]:
        """As in transformers, but a flag that nobody reads is named with its nearest neighbour."""
        *settings, unknown = super().parse_args_into_dataclasses(args, return_remaining_strings=True, **options)
        flags = [token for token in unknown if token.startswith("--")]
        if flags:
            key = flags[0].removeprefix("--").partition("=")[0]
            raise ValueError(unknown_key(key, {action.dest for action in self._actions}))
        if unknown:
            raise ValueError(f"unexpected {' '.join(unknown)!r}; settings are given as --key value")
        return tuple(settings)


def json_object(text: str) -> dict[str, Any]:
    """A dict written as JSON."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {text}")
    return value


def check_keys(config: dict[str, Any], parser: HfArgumentParser, task: str) -> None:
    """Refuse keys that nobody reads, and secrets."""
    known = {action.dest for action in parser._actions} - {"help"}
    for key in config:
        if key in SECRET_KEYS:
            raise ValueError(f"{key} is a secret and does not belong in a file; run `hf auth login` or set HF_TOKEN")
        if key not in known:
            raise ValueError(f"{unknown_key(key, known)} (task {task!r})")


def unknown_key(key: str, known: typing.Iterable[str]) -> str:
    """A message that names the nearest valid key."""
    nearest = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    advice = f"did you mean {nearest[0]!r}?" if nearest else "run_train.py --help lists all keys"
    return f"unknown key {key!r}; {advice}"


def convert(parser: HfArgumentParser, hints: dict[str, Any], key: str, value: Any) -> Any:
    """Check a JSON value against the field's type, and read text as the command line would."""
    kinds = {typing.get_origin(kind) or kind for kind in (hints[key], *typing.get_args(hints[key]))}
    for kind, name in ((type(None), "null"), (dict, "an object"), (list, "a list")):
        if isinstance(value, kind) and kind not in kinds:
            raise ValueError(f"{key} = {json.dumps(value)} is not valid: {name} does not fit here")
    if value is None or isinstance(value, (dict, list)):
        return value
    if dict in kinds and str not in kinds:
        raise ValueError(f"{key} = {value!r} is not valid: it takes an object of names and values")
    if isinstance(value, bool) and key == "resume_from_checkpoint":
        return json.dumps(value)  # documented as true, and text on the command line
    if isinstance(value, bool) and bool not in kinds:
        raise ValueError(f"{key} = {json.dumps(value)} is not valid: true and false do not fit here")
    action = next(action for action in parser._actions if action.dest == key)
    if action.type is None:
        return value
    if str in kinds:
        return str(value)  # a listener is often written as a number
    try:
        return action.type(str(value))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{key} = {value!r} is not valid: {error}") from error


def key_table(kinds: tuple[type, ...]) -> str:
    """The keys of some dataclasses as a Markdown table; of Trainer's own, those whose default differs."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    inherited = {item.name: default_of(item) for item in dataclasses.fields(TrainingArguments)}
    for kind in kinds:
        for item in dataclasses.fields(kind):
            default = default_of(item)
            ours = "output_dir", *(inherited.keys() ^ {field.name for field in dataclasses.fields(kind)})
            if kind is RunTrainingArguments and item.name not in ours and inherited[item.name] == default:
                continue
            lines.append(f"| `{item.name}` | `{json.dumps(default)}` | {item.metadata['help']} |")
    return "\n".join(lines)


def default_of(item: dataclasses.Field) -> Any:
    """The default of a field, made or given."""
    return item.default_factory() if item.default is dataclasses.MISSING else item.default


def write_key_table(readme: Path) -> None:
    """Put the tables of keys between their two marks in the README."""
    start, end = "<!-- keys: made by `python -m training.arguments` -->\n", "<!-- /keys -->"
    head, rest = readme.read_text(encoding="utf-8").split(start)
    tail = rest.split(end)[1]
    groups = {"Every run:": (RunArguments,)}
    groups |= {f"With `task` {name}:": load_task(name).ARGUMENTS for name in TASKS}
    groups["Training, beside the keys of transformers' `TrainingArguments`:"] = (RunTrainingArguments,)
    tables = "\n\n".join(f"{title}\n\n{key_table(kinds)}" for title, kinds in groups.items())
    readme.write_text(f"{head}{start}{tables}\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    write_key_table(Path(sys.argv[1] if len(sys.argv) > 1 else "README.md"))
