"""Python imports this at the start of each process in the environment of `tests.helpers.programs.paused_after`."""

import os
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

replace = os.replace
name, count, seconds = os.environ["PAUSE_AFTER"].split()
finished: list[Any] = []


def replace_or_wait(old: Any, new: Any, **options: Any) -> None:
    """Replace a file, but pause first if `count` files of this name are finished already."""
    if fnmatch(Path(new).name, name):
        if len(finished) == int(count):
            time.sleep(float(seconds))
        finished.append(new)
    replace(old, new, **options)


os.replace = replace_or_wait
