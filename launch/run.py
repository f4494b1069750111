"""Turn a command line into a run: its settings, its task, and Trainer's arguments."""

import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from launch.settings import ReadSettings, check_finite, check_task, merge_settings, read_settings
from tasks import TASKS
from training.task import Run, Task
from training.trainer_arguments import RunTrainingArguments


def parse_run(argv: list[str]) -> Run:
    """Read `[config.json] [--key value ...]`; exit with a one-line message for an unknown key or a wrong value."""
    read = read_settings(argv)
    try:
        return make_run(read)
    except ValueError as error:
        raise SystemExit(f"{read.source}: {error}") from error


def build_run(config: dict[str, Any], source: str, rest: list[str]) -> Run:
    """Build a run from config keys and command-line arguments. Error messages call the config `source`."""
    return make_run(merge_settings(config, source, rest))


def make_run(read: ReadSettings) -> Run:
    """Build a run from settings. This includes the checks of TrainingArguments, which need torch."""
    training = RunTrainingArguments(**{item.name: getattr(read.training, item.name) for item in fields(read.training)})
    if training.resume_from_checkpoint is not None:
        value = training.resume_from_checkpoint
        training.resume_from_checkpoint = {"true": "true", "false": None}.get(value.lower(), value)
    # Hide these from Trainer: it would push each checkpoint, and save the token with its arguments.
    push_to_hub, training.push_to_hub = training.push_to_hub, False
    token, training.hub_token = training.hub_token, None
    name = Path(str(training.output_dir)).name  # the run is named after its folder, in cards and logs
    run = Run(name, read.arguments, training, load_task(read.arguments.task), read.settings, push_to_hub, token)
    check_finite(run.resolved())  # once more, because TrainingArguments has parsed the dicts that were given as text
    return run


def load_task(name: str) -> Task:
    """Import and return the task with this name."""
    check_task(name)
    return importlib.import_module(TASKS[name]).TASK
