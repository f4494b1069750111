"""Turn a command line into a run: what was read of it, its task, and Trainer's arguments."""

import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from launch.settings import ReadSettings, check_finite, check_task, merge_settings, read_settings
from tasks import TASKS
from training.task import Run, Task
from training.trainer_arguments import RunTrainingArguments


def parse_run(argv: list[str]) -> Run:
    """Read `[config.json] [--key value ...]`; an unknown key or a wrong value ends the program with one line."""
    read = read_settings(argv)
    try:
        return make_run(read)
    except ValueError as error:
        raise SystemExit(f"{read.place}: {error}") from error


def build_run(config: dict[str, Any], place: str, rest: list[str]) -> Run:
    """Merge the file's keys and the command line's."""
    return make_run(merge_settings(config, place, rest))


def make_run(read: ReadSettings) -> Run:
    """A run of settings that were read: Trainer checks what it needs torch for."""
    training = RunTrainingArguments(**{item.name: getattr(read.training, item.name) for item in fields(read.training)})
    if training.resume_from_checkpoint is not None:
        wanted = training.resume_from_checkpoint
        training.resume_from_checkpoint = {"true": "true", "false": None}.get(wanted.lower(), wanted)
    push_to_hub, training.push_to_hub = training.push_to_hub, False
    token, training.hub_token = training.hub_token, None
    name = Path(str(training.output_dir)).name
    run = Run(name, read.arguments, training, load_task(read.arguments.task), read.settings, push_to_hub, token)
    check_finite(run.resolved())  # again: by now Trainer has parsed the dicts that were given as text
    return run


def load_task(name: str) -> Task:
    """Return the task that a name is registered for."""
    check_task(name)
    return importlib.import_module(TASKS[name]).TASK
