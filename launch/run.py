"""Turn a command line into a run: look up its task, merge config file and flags, and check them."""

import importlib
import math
import typing
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from training.settings import RunArguments, RunTrainingArguments
from training.task import Run, Task


def parse_run(argv: list[str]) -> Run:
    """Read `[config.json] [--key value ...]`; an unknown key or a wrong value ends the program with one line."""
    config, place, rest = {}, "command line", list(argv)
    if rest and not rest[0].startswith("-"):
        place = rest.pop(0)
        try:
            config = read_config(Path(place))
        except ValueError as error:
            raise SystemExit(str(error)) from error
    try:
        return build_run(config, place, rest)
    except ValueError as error:
        raise SystemExit(f"{place}: {error}") from error


def build_run(config: dict[str, Any], place: str, rest: list[str]) -> Run:
    """Merge the file's keys and the command line's."""
    rest, nested = take_nested(rest)
    task = load_task(command_line_value(rest, "task") or config.get("task", "eda"))
    groups = setting_groups(task)
    kinds = (RunArguments, *groups.values(), RunTrainingArguments)
    parser = make_parser(kinds)
    for action in parser._actions:
        action.help = with_tasks(action.help or "", [task])
    check_keys(config, parser, task=task.name)
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
            raise ValueError(f"{unknown_key(key, hints)} (task {task.name!r})")
        (owner,) = owners
        task_settings[owner] = replace(task_settings[owner], **{key: getattr(task_settings[owner], key) | values})
    check_options(arguments.s3, "s3")
    check_streaming(arguments, task)
    choose_best_by(training, task)
    if training.resume_from_checkpoint is not None:
        wanted = training.resume_from_checkpoint
        training.resume_from_checkpoint = {"true": "true", "false": None}.get(wanted.lower(), wanted)
    push_to_hub, training.push_to_hub = training.push_to_hub, False
    token, training.hub_token = training.hub_token, None
    settings = task.settings(**dict(zip(groups, task_settings, strict=True)))
    run = Run(Path(str(training.output_dir)).name, arguments, training, task, settings, push_to_hub, token)
    check_finite(run.resolved())
    return run


def check_finite(values: dict[str, Any]) -> None:
    """Refuse NaN and infinite numbers, which JSON cannot record, by the name of their key."""
    for key, value in values.items():
        if isinstance(value, dict):
            check_finite({f"{key}.{name}": inner for name, inner in value.items()})
        elif isinstance(value, list):
            check_finite({f"{key}[{place}]": inner for place, inner in enumerate(value)})
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value}: not a finite number. Give one, or leave the key out.")


def check_streaming(arguments: RunArguments, task: Task) -> None:
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


def choose_best_by(training: RunTrainingArguments, task: Task) -> None:
    """Check the metric that decides, and say which way is better: Trainer guesses from the name, and wrongly."""
    if training.metric_for_best_model is None:
        training.metric_for_best_model = next(iter(task.validation_metrics))
    metric = training.metric_for_best_model.removeprefix("eval_")
    if metric not in task.validation_metrics:
        known = ", ".join(task.validation_metrics)
        raise ValueError(f"metric_for_best_model = {metric!r} is not known; it takes one of {known}")
    if training.greater_is_better is None:
        training.greater_is_better = task.validation_metrics[metric]


def load_task(name: str) -> Task:
    """Return the task that a name is registered for."""
    if name not in TASKS:
        raise ValueError(f"task = {name!r} is not known; it takes one of {', '.join(TASKS)}")
    return importlib.import_module(TASKS[name]).TASK


def with_tasks(text: str, tasks: Iterable[Task]) -> str:
    """Fill in the names of all tasks, and the validation metrics of some, where a help text asks for them."""
    metrics = "; ".join(f"{task.name} {', '.join(task.validation_metrics)}" for task in tasks)
    return text.replace("{tasks}", ", ".join(TASKS)).replace("{metrics}", metrics)


def setting_groups(task: Task) -> dict[str, type]:
    """Return the dataclasses of a task's settings by the name of their field; their fields are the task's keys."""
    return typing.get_type_hints(task.settings)
