"""The command line that all `synthesize.py` share, and the csv files that they write."""

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
    "num_listeners": "number of listeners, who all hear every song",
    "coupling": "how much sound drives EDA, 0 to 1",
    "seed": "same seed, same tree",
    "seconds": "length of the clips",
    "defects": "kinds of damage done to the tree",
}


def run_synthesizer(
    name: str, synthesize: Callable[..., str], arguments: list[str] | None, task: str, output_dir: str, **own_help: str
) -> None:
    """Make raw data as the command line says and print how they were made; what cannot be made ends the program.

    The parameters of `synthesize` that have a help text, in HELP or `own_help`, are the options.
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
        elif parameter.annotation is bool:
            settings = {"choices": ("yes", "no"), "default": "yes" if default else "no"}
        parser.add_argument(f"--{option}", help=texts[option], **settings)
    with one_line_errors(parser.prog):
        options = vars(parser.parse_args(arguments))
        options |= {key: options[key] == "yes" for key, value in parameters.items() if value.annotation is bool}
        print(synthesize(**options))


def write_csv(path: Path, rows: Iterable[Iterable]) -> None:
    """Write rows of cells, the header first."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue())
