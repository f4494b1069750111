"""Start a program that needs torch."""

from collections.abc import Callable
from typing import Any

from system.process import parse_before_imports
from training.environment import torch_mismatch


def begin(read: Callable[[list[str]], Any]) -> None:
    """Check the command line, then that torch, torchvision and torchaudio fit together.

    Call it before any slow import, so that mistakes in the command line are reported at once.
    """
    parse_before_imports(read)
    if (problem := torch_mismatch()) is not None:
        raise SystemExit(f"feltsound: {problem}")
