"""What the command lines of all `synthesize.py` share: where the raw data go, and one line for a mistake."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def synthesizer(name: str, writes: str, made: str) -> argparse.ArgumentParser:
    """A parser with `--output_dir`; `writes` is what the command does, `made` what it makes there."""
    parser = argparse.ArgumentParser(
        prog=f"python -m hf_datasets.{name}.synthesize",
        description=writes,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", metavar="FOLDER", required=True, type=Path, help=made)
    return parser


def write_synthetic(parser: argparse.ArgumentParser, synthesize: Callable[..., str], options: dict[str, Any]) -> None:
    """Make the data and say what was made; what cannot be ends the program with its message."""
    try:
        print(synthesize(**options))
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
