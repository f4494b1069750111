"""A saved model on sounds of one's own: no labels, no data set. Signals; events are found by detecting.py."""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Protocol, Self

import numpy as np
import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import FeatureExtractionMixin, PreTrainedModel

from media.audio import AudioError, read_audio_blocks
from media.scaling import Scaling
from modeling.feature_extraction_audio import AudioFeatureExtractor

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
PLOT_SUFFIXES = (".png", ".pdf", ".svg")


class Part(Protocol):
    """What a model says about a stretch of a sound, as rows of a table."""

    def header(self) -> list[str]:
        """The table's columns."""

    def rows(self) -> Iterator[list[str]]:
        """The table's rows."""

    def join(self, others: Sequence[Self]) -> Self:
        """This stretch and those that follow it as one."""


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


def find_sounds(paths: Sequence[Path], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The recordings among files and folders, in order; a name that is not there is an error."""
    sounds = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes)
            if not found:
                raise ValueError(f"{path}: no recording in this folder; it is searched for {' '.join(suffixes)}")
            sounds += found
        elif path.is_file():
            sounds.append(path)
        else:
            raise ValueError(f"{path}: no such file or folder")
    return sounds


def load_model(name: str, device: str, task: ModuleType) -> tuple[PreTrainedModel, FeatureExtractionMixin | None]:
    """A model and its features, from a folder or the Hub."""
    if not Path(name).exists() and name.count("/") != 1:
        raise ValueError(f"{name}: no such folder, and not a name on the Hub (user/model)")
    try:
        model = task.AUTO_MODEL.from_pretrained(name).to(torch.device(device)).eval()
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{name} on device {device!r}: {error}") from error
    return model, None if task.AUTO_EXTRACTOR is None else task.AUTO_EXTRACTOR.from_pretrained(name)


@torch.inference_mode()
def predict_sound(
    model: PreTrainedModel, extractor: AudioFeatureExtractor, sound: Path, listener: str | None
) -> Iterator[Prediction]:
    """Predictions on the model's time grid, in the unit of its target, a stretch at a time.

    Sound, features and predictions come block by block, so memory does not grow with the recording.
    """
    scaling = Scaling.from_dict(model.config.target_scaling)
    if listener is not None and listener not in scaling.listeners:
        known = ", ".join(sorted(scaling.listeners)[:8]) or "none: the model was not scaled by listener"
        raise ValueError(f"listener {listener!r} was not in the training; among those who were: {known}")
    blocks = read_audio_blocks(sound, extractor.sampling_rate)
    features = (piece.to(model.device) for piece in extractor.stream(blocks, extractor.sampling_rate))
    done = 0  # frames
    for output in model.predict_blocks(features):
        values = output.predictions[0].double().cpu().numpy()  # (T, C)
        deviations = None if output.log_variance is None else (output.log_variance[0] / 2).exp().double().cpu().numpy()
        if scaling.scope != "trial":
            zero = scaling.invert(np.zeros_like(values), listener)
            values = scaling.invert(values, listener)
            deviations = None if deviations is None else scaling.invert(deviations, listener) - zero
        times = np.arange(done, done + len(values)) / model.config.frame_rate
        done += len(values)
        yield Prediction(sound, times, values, deviations, scaling.channels, scaling.unit)


def check_outputs(table: Path | None, plot: Path | None) -> None:
    """Refuse names that could not be written, before the work rather than after it."""
    for path in (path for path in (table, plot) if path is not None):
        if not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: its folder does not exist; make it, or name another")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file")
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise ValueError(f"{plot}: a picture's name ends in one of {', '.join(PLOT_SUFFIXES)}")


def write_predictions(
    predict: Callable[[Path], Iterator[Part]], sounds: Sequence[Path], path: Path, keep: bool
) -> tuple[list[Part], list[str]]:
    """A CSV of what `predict` says of each sound, stretch by stretch.

    Written as predictions come, under its name once it is whole; a sound that turns out to be unreadable, also at its
    end, has no rows. Returns the predictions (to draw them) where they are to be kept, else what identifies them, and
    why some sounds have none.
    """
    draft = path.with_name(path.name + ".part")
    predictions, unreadable = [], []
    with open(draft, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for sound in tqdm(sounds, desc="predicting", unit="sound"):
            start, stretches = file.tell(), []
            try:
                for part in predict(sound):
                    if not file.tell():
                        writer.writerow(part.header())
                    writer.writerows(part.rows())
                    stretches += [part] if keep or not stretches else []
            except AudioError as error:
                file.seek(start)
                file.truncate()
                unreadable.append(str(error))
                continue
            predictions.append(stretches[0].join(stretches[1:]))
    if predictions:
        os.replace(draft, path)
    else:
        draft.unlink()
    return predictions, unreadable
