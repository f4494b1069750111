"""A small EfficientAT with random weights, as a folder, and toy clips that it hears."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import torch

from modeling import EfficientAtConfig, EfficientAtFeatureExtractor, EfficientAtForAudioClassification

LABELS = ("Speech", "Music", "Baby cry, infant cry", "Dog")


def tiny_encoder(seed: int = 0, **settings: object) -> EfficientAtForAudioClassification:
    """A random encoder whose output depends on its input: the usual start shrinks signals from layer to layer."""
    torch.manual_seed(seed)
    config = EfficientAtConfig(
        width=0.1, classifier_size=8, id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)},
        **settings,
    )  # fmt: skip
    model = EfficientAtForAudioClassification(config)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.normal_()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the first batch decides
        model.train().efficientat(torch.randn(8, 100, config.num_mel_bins))
    return model.eval()


@functools.cache
def tiny_encoder_folder() -> Path:
    """Where `encoder.name` finds it; gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-encoder-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tiny_encoder().save_pretrained(folder)
    EfficientAtFeatureExtractor().save_pretrained(folder)
    return folder
