"""Command line and csv writer shared by all `synthesize.py`."""

import argparse
import csv
import inspect
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from system.process import one_line_errors

HELP = {
    "num_songs": "number of songs",
    "num_listeners": "number of listeners; each hears every song",
    "coupling": "share of the EDA that the sound drives, 0 to 1",
    "seed": "random seed; the same seed gives the same files",
    "seconds": "length of the clips, s",
    "defects": "which damage to add to the files",
}


def run_synthesizer(
    name: str, synthesize: Callable[..., str], arguments: list[str] | None, task: str, output_dir: str, **own_help: str
) -> None:
    """Parse the command line, write the raw data and print how they were made; bad input exits with one line.

    The options are the parameters of `synthesize` that have a help text in HELP or `own_help`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m hf_datasets.{name}.synthesize",
        description=task,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", metavar="FOLDER", required=True, type=Path, help=output_dir)
    texts = HELP | own_help
    parameters = {key: value for key, value in inspect.signature(synthesize).parameters.items() if key in texts}
    for option, parameter in parameters.items():
        default = parameter.default
        settings: dict[str, Any] = {"type": type(default), "default": default}
        if get_origin(parameter.annotation) is Literal:
            settings |= {"choices": get_args(parameter.annotation)}
        elif isinstance(default, tuple):
            settings |= {"type": type(default[0]), "nargs": 2, "metavar": ("MIN", "MAX")}
        elif parameter.annotation is bool:  # argparse would turn any text, also "no", into True
            settings = {"choices": ("yes", "no"), "default": "yes" if default else "no"}
        parser.add_argument(f"--{option}", help=texts[option], **settings)
    with one_line_errors(parser.prog):
        options = vars(parser.parse_args(arguments))
        options |= {key: options[key] == "yes" for key, value in parameters.items() if value.annotation is bool}
        print(synthesize(**options))


def write_csv(path: Path, rows: Iterable[Iterable]) -> None:
    """Write rows of cells; the first row is the header."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue())
