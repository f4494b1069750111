"""Estimate mean and spread of a new model's input from some training windows."""

from typing import Any

import numpy as np
import torch

from modeling.modeling_encoder import EncoderForAudioClassification
from modeling.modeling_signal import SignalPreTrainedModel
from tasks.detection.collator import SoundExtractor
from tasks.detection.embedded import embed_batch
from tasks.detection.windows import AudioSetWindows

# W windows, D numbers of an embedding, F features

FEATURE_WINDOWS, EMBEDDING_WINDOWS = 512, 256  # at most
SMALLEST_FEATURE_DEVIATION = 1e-3  # dB; a feature that varies less is constant and only centred
SMALLEST_EMBEDDING_DEVIATION = 1e-4


def scale_features(model: SignalPreTrainedModel, windows: AudioSetWindows, extractor: Any) -> None:
    """Centre and scale the input features of one of our signal models."""
    audio = [windows[item]["audio"] for item in evenly_spaced_items(windows, FEATURE_WINDOWS)]
    batch = extractor(audio, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    frames = batch["input_features"].flatten(0, 1).double()  # (W * T, F)
    model.set_input_scaling(*level_and_spread(frames, SMALLEST_FEATURE_DEVIATION))


def scale_embeddings(
    model: EncoderForAudioClassification, windows: AudioSetWindows, extractor: SoundExtractor
) -> None:
    """Centre and scale the embeddings that enter the head."""
    model.eval()
    records = [
        embed_batch(windows, [(item, item)], model, extractor)["embeddings"]
        for item in evenly_spaced_items(windows, EMBEDDING_WINDOWS)
    ]
    model.train()
    embeddings = torch.from_numpy(np.concatenate(records)[:, 0].astype(np.float64))  # (W, D)
    model.set_embedding_scaling(*level_and_spread(embeddings, SMALLEST_EMBEDDING_DEVIATION))


def evenly_spaced_items(windows: AudioSetWindows, limit: int) -> list[int]:
    """Return at most `limit` items at equal distances."""
    return np.unique(np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(int)).tolist()


def level_and_spread(values: torch.Tensor, smallest: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation (F,) of values (N, F); a deviation below `smallest` becomes 1, safe to divide by."""
    deviation = values.std(0)
    return values.mean(0), deviation.where(deviation >= smallest, 1.0)
