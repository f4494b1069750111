"""The table of names: each name on its right-hand side exists, and each key that it gives is a key."""

import dataclasses
import importlib.util
import pydoc
import re
from pathlib import Path

import pytest

from launch.settings import setting_groups, settings_of
from tasks import TASKS
from tests.conftest import REPOSITORY
from training.settings import RunArguments, training_keys

TABLE = [
    line.strip("|").split(" | ")[1]
    for line in (REPOSITORY / "docs/names.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and " | " in line
][1:]
NAMES = sorted({name for cell in TABLE for name in re.findall(r"`([^`]+)`", cell)})
KEYS = {
    item.name
    for kind in (RunArguments, training_keys(), *(g for t in TASKS for g in setting_groups(settings_of(t)).values()))
    for item in dataclasses.fields(kind)
}


def exists(name: str) -> bool:
    """A command, an option of prepare, a path, a name in a module, or a key of a config."""
    words = name.split()
    if words[0] == "python":
        paths = [word for word in words[3:] if "/" in word]
        return importlib.util.find_spec(words[2]) is not None and all((REPOSITORY / path).exists() for path in paths)
    if name.startswith("--"):
        return f'"{name}"' in (REPOSITORY / "hf_datasets/prepare.py").read_text(encoding="utf-8")
    if "/" in name or name.endswith(".py"):
        return Path(REPOSITORY, name).exists()
    if "." in name:
        return pydoc.locate(name) is not None
    return name in KEYS


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_the_table_exists(name: str) -> None:
    assert exists(name)


def test_the_table_is_whole_and_a_wrong_name_is_seen() -> None:
    assert len(TABLE) >= 25
    wrong = ("training.trainer.Optimizers", "learning_rat", "configs/none.json", "python -m launch.none", "--no_such")
    assert not any(exists(name) for name in wrong)
