"""Read a config file and a command line: every key known, every value of the right type, before torch is imported."""

import importlib
import math
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from system.storage import check_options
from tasks import TASKS
from training.command_line import (
    check_keys,
    command_line_value,
    convert,
    make_parser,
    read_config,
    take_nested,
    type_hints,
    unknown_key,
)
from training.settings import (
    RunArguments,
    TaskSettings,
    TrainingKeys,
    check_enums,
    check_folder,
    check_training,
    training_keys,
)


@dataclass(frozen=True)
class ReadSettings:
    """The keys of a config and a command line, merged."""

    place: str  # the config, which errors name
    arguments: RunArguments
    training: TrainingKeys
    settings: TaskSettings


def read_settings(argv: list[str]) -> ReadSettings:
    """Read `[config.json] [--key value ...]`; an unknown key or a wrong value ends the program with one line."""
    config, place, rest = {}, "command line", list(argv)
    if rest and not rest[0].startswith("-"):
        place = rest.pop(0)
        try:
            config = read_config(Path(place))
        except ValueError as error:
            raise SystemExit(str(error)) from error
    try:
        return merge_settings(config, place, rest)
    except ValueError as error:
        raise SystemExit(f"{place}: {error}") from error


def check_command_line(argv: list[str]) -> None:
    """Refuse what run_train.py cannot begin with."""
    check_folder(read_settings(argv).arguments.dataset)


def merge_settings(config: dict[str, Any], place: str, rest: list[str]) -> ReadSettings:
    """Merge the file's keys and the command line's."""
    rest, nested = take_nested(rest)
    name = command_line_value(rest, "task") or config.get("task", "eda")
    task = settings_of(name)
    groups = setting_groups(task)
    kinds = (RunArguments, *groups.values(), training_keys())
    parser = make_parser(kinds)
    for action in parser._actions:
        action.help = with_tasks(action.help or "", {name: task})
    check_keys(config, parser, task=name)
    defaults = {"output_dir": str(Path("outputs") / Path(place).stem) if place.endswith(".json") else "outputs/run"}
    hints = type_hints(kinds)
    parser.set_defaults(**defaults | {key: convert(parser, hints, key, value) for key, value in config.items()})
    arguments, *task_settings, training = parser.parse_args_into_dataclasses(rest, look_for_args_file=False)
    for key, values in nested.items():
        if hasattr(arguments, key):
            setattr(arguments, key, getattr(arguments, key) | values)
            continue
        owners = [index for index, settings in enumerate(task_settings) if hasattr(settings, key)]
        if not owners:
            raise ValueError(f"{unknown_key(key, hints)} (task {name!r})")
        (owner,) = owners
        task_settings[owner] = replace(task_settings[owner], **{key: getattr(task_settings[owner], key) | values})
    check_options(arguments.s3, "s3")
    check_streaming(arguments, task)
    check_enums(training)
    choose_best_by(training, task)
    check_training(training)
    settings = task(**dict(zip(groups, task_settings, strict=True)))
    for part in (arguments, *task_settings, training):
        check_finite(asdict(part))
    return ReadSettings(place, arguments, training, settings)


def check_finite(values: dict[str, Any]) -> None:
    """Refuse NaN and infinite numbers, which JSON cannot record, by the name of their key."""
    for key, value in values.items():
        if isinstance(value, dict):
            check_finite({f"{key}.{name}": inner for name, inner in value.items()})
        elif isinstance(value, list):
            check_finite({f"{key}[{place}]": inner for place, inner in enumerate(value)})
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value}: not a finite number. Give one, or leave the key out.")


def check_streaming(arguments: RunArguments, task: type[TaskSettings]) -> None:
    """Refuse to stream what cannot be, or need not."""
    if not arguments.streaming:
        return
    if not task.streamed:
        raise ValueError(f"streaming: task {arguments.task!r} takes none: {task.not_streamed}; leave it out")
    if not arguments.dataset.startswith("s3://"):
        raise ValueError(
            f"streaming reads s3:// prefixes that `prepare` wrote, and dataset = {arguments.dataset!r} is none: what "
            "lies on this machine is memory-mapped already, a Hub name is downloaded; leave streaming out"
        )


def choose_best_by(training: TrainingKeys, task: type[TaskSettings]) -> None:
    """Check the metric that decides, and say which way is better: Trainer guesses from the name, and wrongly."""
    if training.metric_for_best_model is None:
        training.metric_for_best_model = next(iter(task.validation_metrics))
    metric = training.metric_for_best_model.removeprefix("eval_")
    if metric not in task.validation_metrics:
        known = ", ".join(task.validation_metrics)
        raise ValueError(f"metric_for_best_model = {metric!r} is not known; it takes one of {known}")
    if training.greater_is_better is None:
        training.greater_is_better = task.validation_metrics[metric]


def check_task(name: str) -> None:
    """Refuse a task that nobody registered."""
    if name not in TASKS:
        raise ValueError(f"task = {name!r} is not known; it takes one of {', '.join(TASKS)}")


def settings_of(name: str) -> type[TaskSettings]:
    """Return the settings of the task that a name is registered for."""
    check_task(name)
    return importlib.import_module(f"tasks.{name}.settings").SETTINGS


def with_tasks(text: str, tasks: dict[str, type[TaskSettings]]) -> str:
    """Fill in the names of all tasks, and the validation metrics of some, where a help text asks for them."""
    metrics = "; ".join(f"{name} {', '.join(task.validation_metrics)}" for name, task in tasks.items())
    return text.replace("{tasks}", ", ".join(TASKS)).replace("{metrics}", metrics)


def setting_groups(settings: type[TaskSettings]) -> dict[str, type]:
    """Return the dataclasses of a task's settings by the name of their field; their fields are the task's keys."""
    hints = get_type_hints(settings)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
