"""Write the tables of config keys in the README from the dataclasses that define them.

python -m launch.key_table
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from launch.settings import setting_groups, settings_of, with_tasks
from system.process import one_line_errors
from tasks import TASKS
from training.settings import RunArguments, training_keys
from training.trainer_keys import installed_keys


def key_table(kinds: tuple[type, ...]) -> str:
    """The keys of some dataclasses as a Markdown table; of Trainer's own, those whose default differs."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    inherited = {item.name: default_of(item) for item in dataclasses.fields(installed_keys())}
    for kind in kinds:
        for item in dataclasses.fields(kind):
            default = default_of(item)
            ours = "output_dir", *(inherited.keys() ^ {field.name for field in dataclasses.fields(kind)})
            if kind is training_keys() and item.name not in ours and inherited[item.name] == default:
                continue
            lines.append(f"| `{item.name}` | `{json.dumps(default)}` | {item.metadata['help']} |")
    return "\n".join(lines)


def default_of(item: dataclasses.Field) -> Any:
    """The default of a field, made or given."""
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def write_key_table(readme: Path) -> None:
    """Put the tables of keys between their two marks in the README."""
    start, end = "<!-- keys: made by `python -m launch.key_table` -->\n", "<!-- /keys -->"
    head, rest = readme.read_text(encoding="utf-8").split(start)
    tail = rest.split(end)[1]
    tasks = {name: settings_of(name) for name in TASKS}
    groups = {"Every run:": (RunArguments,)}
    groups |= {f"With `task` {name}:": tuple(setting_groups(task).values()) for name, task in tasks.items()}
    groups["Training, beside the keys of transformers' `TrainingArguments`:"] = (training_keys(),)
    tables = "\n\n".join(f"{title}\n\n{key_table(kinds)}" for title, kinds in groups.items())
    readme.write_text(f"{head}{start}{with_tasks(tables, tasks)}\n{end}{tail}", encoding="utf-8")


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m launch.key_table", description="Write the tables of config keys.")
    parser.add_argument("readme", type=Path, nargs="?", default="README.md", help="The file that has their two marks.")
    write_key_table(parser.parse_args(argv).readme)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
