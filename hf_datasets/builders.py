"""Find and open the builder of a data set."""

import importlib
import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from system.storage import scratch_folder

from .base_builder import Builder


def builder_class(name: str) -> type[Builder]:
    """Import the builder of a data set: `PmemoBuilder` from `hf_datasets/pmemo/builder.py`."""
    return getattr(importlib.import_module(f"hf_datasets.{name}.builder"), f"{name.capitalize()}Builder")


@contextmanager
def open_builder(name: str, raw_dir: str | Path, **options: Any) -> Iterator[Builder]:
    """Open the builder of a data set; ValueError for options that it does not have.

    The builder gets a temporary cache folder, because `datasets` requires one of every builder.
    """
    builder = builder_class(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in inspect.signature(builder.__init__).parameters:
            reason = (
                f"the sounds of {name} are in its --raw_dir"
                if option == "audio_root"
                else f"{name} does not have this option"
            )
            raise ValueError(f"--{option}={value}: {reason}. Remove the option.")
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as cache:
        yield builder(raw_dir=raw_dir, cache_dir=cache, **given)
