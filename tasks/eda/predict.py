"""Predict skin conductance for new recordings."""

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
    """The prediction for one sound, or for a part of it."""

    file: Path
    times: np.ndarray  # (T,) seconds
    values: np.ndarray  # (T, C), in `unit`
    deviations: np.ndarray | None  # (T, C), standard deviations from a Gaussian head
    channels: tuple[str, ...]
    unit: str

    def header(self) -> list[str]:
        """Return the column names: file, time, one column per channel, and its deviation if there is one."""
        names = [f"{channel} ({self.unit})" for channel in self.channels]
        if self.deviations is not None:
            names += [f"{channel} deviation ({self.unit})" for channel in self.channels]
        return ["file", "time_seconds", *names]

    def rows(self) -> Iterator[list[str]]:
        """Yield one row of the table per frame."""
        columns = [part for part in (self.values, self.deviations) if part is not None]
        for time, values in zip(self.times, np.hstack(columns), strict=True):
            yield [str(self.file), f"{time:.3f}", *(f"{value:.6f}" for value in values)]

    def join(self, others: Sequence["Prediction"]) -> "Prediction":
        """Return this part followed by the other parts of the same sound."""
        parts = [self, *others]
        deviations = None if self.deviations is None else np.concatenate([part.deviations for part in parts])
        return replace(
            self,
            times=np.concatenate([part.times for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            deviations=deviations,
        )


def check_listener(config: PreTrainedConfig, listener: str | None) -> None:
    """Raise ValueError for a listener without training trials, whose scaling is unknown."""
    listeners = Scaling.from_dict(config.target_scaling).listeners
    if listener is not None and listener not in listeners:
        known = ", ".join(sorted(listeners)[:8]) or "none, because the target is not scaled per listener"
        raise ValueError(f"--listener={listener}: not in the training data. Known listeners: {known}.")


@torch.inference_mode()
def predict_sound(
    model: SignalRegressionModel, extractor: AudioFeatureExtractor, sound: Path, listener: str | None
) -> Iterator[Prediction]:
    """Yield predictions in the unit of the target, block by block.

    Audio, features and predictions are streamed, so memory does not grow with the length of the recording.
    """
    scaling = Scaling.from_dict(model.config.target_scaling)
    blocks = read_audio_blocks(sound, extractor.sampling_rate)
    features = (piece.to(model.device) for piece in extractor.stream(blocks, extractor.sampling_rate))
    frames_done = 0
    for output in model.predict_blocks(features):
        values = cast(torch.Tensor, output.predictions)[0].double().cpu().numpy()  # (T, C)
        # log_variance / 2 is the logarithm of the standard deviation.
        deviations = None if output.log_variance is None else (output.log_variance[0] / 2).exp().double().cpu().numpy()
        if scaling.scope != "trial":
            # A deviation is multiplied by the scale but not shifted, so the offset is subtracted again.
            offset = scaling.invert(np.zeros_like(values), listener)
            values = scaling.invert(values, listener)
            deviations = None if deviations is None else scaling.invert(deviations, listener) - offset
        times = np.arange(frames_done, frames_done + len(values)) / model.config.frame_rate
        frames_done += len(values)
        yield Prediction(sound, times, values, deviations, scaling.channels, scaling.unit)


def predict(
    model: SignalRegressionModel,
    extractor: AudioFeatureExtractor,
    sounds: Sequence[Path],
    arguments: argparse.Namespace,
) -> Predicted:
    """Predict the sounds, and write one table of all predictions to `arguments.output`."""
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
