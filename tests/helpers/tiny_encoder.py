"""A small EfficientAT with random weights, as a model and as a folder."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import torch

from modeling import EfficientAtForAudioClassification
from tests.helpers.efficientat import small_encoder
from training.official_efficientat import save_encoder

LABELS = ("Speech", "Music", "Baby cry, infant cry", "Dog")


def tiny_encoder(seed: int = 0) -> EfficientAtForAudioClassification:
    """Return an encoder, the same for the same seed."""
    torch.manual_seed(seed)
    return small_encoder(LABELS)


@functools.cache
def tiny_encoder_folder() -> Path:
    """Return a folder for `encoder.name`; it is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-encoder-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save_encoder(tiny_encoder(), folder)
    return folder
