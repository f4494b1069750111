"""Python imports this in each process of a program that runs in the environment of `tests.helpers.programs.held`."""

import os
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

replace = os.replace
name, count, seconds = os.environ["HOLD"].split()
finished: list[Any] = []


def replace_or_wait(old: Any, new: Any, **options: Any) -> None:
    """As `os.replace`; a file that is one too many is complete under its old name for a while."""
    if fnmatch(Path(new).name, name):
        if len(finished) == int(count):
            time.sleep(float(seconds))
        finished.append(new)
    replace(old, new, **options)


os.replace = replace_or_wait
