"""Predict skin conductance for recordings without labels."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedConfig

from media.audio import read_audio_blocks
from media.scaling import Scaling
from modeling.feature_extraction_audio import AudioFeatureExtractor
from modeling.modeling_signal import SignalRegressionModel
from training.prediction import write_predictions
from training.task import Predicted


@dataclass(frozen=True)
class Prediction:
    """What a model says about one sound."""

    file: Path
    times: np.ndarray  # (T,) seconds
    values: np.ndarray  # (T, C)
    deviations: np.ndarray | None  # (T, C), the standard deviation that a Gaussian head predicts
    channels: tuple[str, ...]
    unit: str

    def header(self) -> list[str]:
        """The file, the time and a column a channel, named with its unit, and its deviation."""
        names = [f"{channel} ({self.unit})" for channel in self.channels]
        if self.deviations is not None:
            names += [f"{channel} deviation ({self.unit})" for channel in self.channels]
        return ["file", "time_seconds", *names]

    def rows(self) -> Iterator[list[str]]:
        """A row a frame."""
        columns = [part for part in (self.values, self.deviations) if part is not None]
        for time, values in zip(self.times, np.hstack(columns), strict=True):
            yield [str(self.file), f"{time:.3f}", *(f"{value:.6f}" for value in values)]

    def join(self, others: Sequence["Prediction"]) -> "Prediction":
        """One sound's stretches as one prediction."""
        parts = [self, *others]
        deviations = None if self.deviations is None else np.concatenate([part.deviations for part in parts])
        return replace(
            self,
            times=np.concatenate([part.times for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            deviations=deviations,
        )


def check_listener(config: PreTrainedConfig, listener: str | None) -> None:
    """Refuse a listener whom the model does not know."""
    listeners = Scaling.from_dict(config.target_scaling).listeners
    if listener is not None and listener not in listeners:
        known = ", ".join(sorted(listeners)[:8]) or "none, for the model was not scaled by listener"
        raise ValueError(f"--listener={listener}: not in the training. Known: {known}.")


@torch.inference_mode()
def predict_sound(
    model: SignalRegressionModel, extractor: AudioFeatureExtractor, sound: Path, listener: str | None
) -> Iterator[Prediction]:
    """Predictions on the model's time grid, in the unit of its target, a stretch at a time.

    Sound, features and predictions come block by block, so memory does not grow with the recording.
    """
    scaling = Scaling.from_dict(model.config.target_scaling)
    blocks = read_audio_blocks(sound, extractor.sampling_rate)
    features = (piece.to(model.device) for piece in extractor.stream(blocks, extractor.sampling_rate))
    done = 0  # frames
    for output in model.predict_blocks(features):
        values = cast(torch.Tensor, output.predictions)[0].double().cpu().numpy()  # (T, C)
        deviations = None if output.log_variance is None else (output.log_variance[0] / 2).exp().double().cpu().numpy()
        if scaling.scope != "trial":
            zero = scaling.invert(np.zeros_like(values), listener)
            values = scaling.invert(values, listener)
            deviations = None if deviations is None else scaling.invert(deviations, listener) - zero
        times = np.arange(done, done + len(values)) / model.config.frame_rate
        done += len(values)
        yield Prediction(sound, times, values, deviations, scaling.channels, scaling.unit)


def predict(
    model: SignalRegressionModel,
    extractor: AudioFeatureExtractor,
    sounds: Sequence[Path],
    arguments: argparse.Namespace,
) -> Predicted:
    """Write the predictions for some sounds."""
    parts, unreadable = write_predictions(
        lambda sound: predict_sound(model, extractor, sound, arguments.listener),
        sounds,
        arguments.output,
        keep=arguments.plot is not None,
        synthetic=arguments.synthetic,
    )
    predictions = cast(list[Prediction], parts)
    summary = ", ".join(predictions[0].channels) + f" in {predictions[0].unit}" if predictions else ""
    return Predicted(predictions, unreadable, summary)
