"""The engine: from rows to a trained model, whatever the task."""

from training.environment import torch_mismatch

# Before anything imports transformers' Trainer, which would fail with a riddle.
if (problem := torch_mismatch()) is not None:
    raise SystemExit(f"feltsound: {problem}")
