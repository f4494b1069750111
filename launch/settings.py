"""Read and check a config file and a command line, before torch is imported."""

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
    """The merged settings of a config and a command line."""

    source: str  # the path of the config, for error messages
    arguments: RunArguments
    training: TrainingKeys
    settings: TaskSettings


def read_settings(argv: list[str]) -> ReadSettings:
    """Read `[config.json] [--key value ...]`; exit with a one-line message for an unknown key or a wrong value."""
    config, source, rest = {}, "command line", list(argv)
    if rest and not rest[0].startswith("-"):
        source = rest.pop(0)
        try:
            config = read_config(Path(source))
        except ValueError as error:
            raise SystemExit(str(error)) from error
    try:
        return merge_settings(config, source, rest)
    except ValueError as error:
        raise SystemExit(f"{source}: {error}") from error


def check_command_line(argv: list[str]) -> None:
    """Check the command line of run_train.py, and that the data set can exist."""
    check_folder(read_settings(argv).arguments.dataset)


def merge_settings(config: dict[str, Any], source: str, rest: list[str]) -> ReadSettings:
    """Merge config keys with command-line arguments, which win, and check them.

    Args:
        source: path of the config, for error messages and for the default output folder.
    """
    rest, nested = take_nested(rest)
    # The task decides which keys exist, so it must be known before the parser is built.
    name = command_line_value(rest, "task") or config.get("task", "eda")
    task = settings_of(name)
    groups = setting_groups(task)
    dataclass_types = (RunArguments, *groups.values(), training_keys())
    parser = make_parser(dataclass_types)
    # Name only the metrics of this task in `--help`.
    for action in parser._actions:
        action.help = with_tasks(action.help or "", {name: task})
    check_keys(config, parser, task=name)
    # The values of the config become the defaults of the parser, so that the command line overrides them.
    defaults = {"output_dir": str(Path("outputs") / Path(source).stem) if source.endswith(".json") else "outputs/run"}
    hints = type_hints(dataclass_types)
    parser.set_defaults(**defaults | {key: convert(parser, hints, key, value) for key, value in config.items()})
    arguments, *task_settings, training = parser.parse_args_into_dataclasses(rest, look_for_args_file=False)
    for key, values in nested.items():
        if hasattr(arguments, key):
            setattr(arguments, key, getattr(arguments, key) | values)
            continue
        owners = [index for index, settings in enumerate(task_settings) if hasattr(settings, key)]
        if not owners:
            raise ValueError(f"{unknown_key(key, hints)} (task {name!r})")
        (owner,) = owners  # key names are unique within a task
        task_settings[owner] = replace(task_settings[owner], **{key: getattr(task_settings[owner], key) | values})
    # The checks below concern several keys, which the parser cannot see.
    check_options(arguments.s3, "s3")
    check_streaming(arguments, task)
    check_enums(training)
    set_best_metric(training, task)
    check_training(training)
    settings = task(**dict(zip(groups, task_settings, strict=True)))
    # JSON has no NaN, so the records of the run could not be written at its end.
    for part in (arguments, *task_settings, training):
        check_finite(asdict(part))
    return ReadSettings(source, arguments, training, settings)


def check_finite(values: dict[str, Any]) -> None:
    """Raise ValueError for NaN and infinity, which JSON cannot represent."""
    for key, value in values.items():
        if isinstance(value, dict):
            check_finite({f"{key}.{name}": inner for name, inner in value.items()})
        elif isinstance(value, list):
            check_finite({f"{key}[{index}]": inner for index, inner in enumerate(value)})
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value}: must be a finite number. Give one, or remove the key.")


def check_streaming(arguments: RunArguments, task: type[TaskSettings]) -> None:
    """Raise ValueError if the task or the data set does not support streaming."""
    if not arguments.streaming:
        return
    if not task.streamed:
        raise ValueError(
            f"streaming=true: task {arguments.task!r} cannot stream: {task.not_streamed.rstrip('.')}. Remove the key."
        )
    if not arguments.dataset.startswith("s3://"):
        raise ValueError(
            f"streaming=true: dataset={arguments.dataset!r} is not an s3:// prefix. Remove the key: local data is "
            "memory-mapped, and Hub data is downloaded."
        )


def set_best_metric(training: TrainingKeys, task: type[TaskSettings]) -> None:
    """Check `metric_for_best_model`, and fill in the defaults for it and `greater_is_better`."""
    # Trainer would guess the direction from the name of the metric, and wrongly for errors such as RMSE.
    if training.metric_for_best_model is None:
        training.metric_for_best_model = next(iter(task.validation_metrics))
    metric = training.metric_for_best_model.removeprefix("eval_")
    if metric not in task.validation_metrics:
        metrics = ", ".join(task.validation_metrics)
        raise ValueError(f"metric_for_best_model={metric!r}: unknown metric. Must be one of {metrics}.")
    if training.greater_is_better is None:
        training.greater_is_better = task.validation_metrics[metric]


def check_task(name: str) -> None:
    """Raise ValueError for an unknown task."""
    if name not in TASKS:
        raise ValueError(f"task={name!r}: unknown task. Must be one of {', '.join(TASKS)}.")


def settings_of(name: str) -> type[TaskSettings]:
    """Import and return the settings class of the task with this name."""
    check_task(name)
    return importlib.import_module(f"tasks.{name}.settings").SETTINGS


def with_tasks(text: str, tasks: dict[str, type[TaskSettings]]) -> str:
    """Replace `{tasks}` in a help text by all task names, and `{metrics}` by the validation metrics of `tasks`."""
    metrics = "; ".join(f"{name} {', '.join(task.validation_metrics)}" for name, task in tasks.items())
    return text.replace("{tasks}", ", ".join(TASKS)).replace("{metrics}", metrics)


def setting_groups(settings: type[TaskSettings]) -> dict[str, type]:
    """Return the dataclasses in a task's settings by field name. Their fields are the keys of the task."""
    # Skip the class variables of TaskSettings, whose types are no dataclasses.
    hints = get_type_hints(settings)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
