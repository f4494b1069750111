"""Write the tables of config keys in docs/configs.md from the dataclasses that define them.

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


def key_table(dataclass_types: tuple[type, ...]) -> str:
    """Return the keys of some dataclasses as a Markdown table; of Trainer's, those with another default here."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    inherited = {item.name: default_of(item) for item in dataclasses.fields(installed_keys())}
    for dataclass_type in dataclass_types:
        for item in dataclasses.fields(dataclass_type):
            default = default_of(item)
            ours = "output_dir", *(inherited.keys() ^ {field.name for field in dataclasses.fields(dataclass_type)})
            if dataclass_type is training_keys() and item.name not in ours and inherited[item.name] == default:
                continue
            lines.append(f"| `{item.name}` | `{json.dumps(default)}` | {item.metadata['help']} |")
    return "\n".join(lines)


def default_of(item: dataclasses.Field) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def write_key_table(page: Path) -> None:
    """Put the tables of keys between the two marks in a Markdown page."""
    start, end = "<!-- keys: made by `python -m launch.key_table` -->\n", "<!-- /keys -->"
    head, rest = page.read_text(encoding="utf-8").split(start)
    tail = rest.split(end)[1]
    tasks = {name: settings_of(name) for name in TASKS}
    groups = {"## Every run": (RunArguments,)}
    groups |= {f"## Task `{name}`": tuple(setting_groups(task).values()) for name, task in tasks.items()}
    groups["## Training, in addition to the other keys of `TrainingArguments`"] = (training_keys(),)
    tables = "\n\n".join(f"{title}\n\n{key_table(types)}" for title, types in groups.items())
    page.write_text(f"{head}{start}\n{with_tasks(tables, tasks)}\n\n{end}{tail}", encoding="utf-8")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.key_table", description="Write the tables of config keys.")
    parser.add_argument("page", type=Path, nargs="?", default="docs/configs.md", help="The page with their two marks.")
    write_key_table(parser.parse_args(argv).page)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
