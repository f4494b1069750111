"""The beginning of a program that needs torch."""

from collections.abc import Callable
from typing import Any

from system.process import answer_at_once
from training.environment import torch_mismatch


def begin(read: Callable[[list[str]], Any]) -> None:
    """Read the command line, then see that torch, torchvision and torchaudio fit, before Trainer is imported.

    Its own message about a mismatch is unclear.
    """
    answer_at_once(read)
    if (problem := torch_mismatch()) is not None:
        raise SystemExit(f"feltsound: {problem}")
