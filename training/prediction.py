"""A saved model on sounds of one's own: no labels, no data set."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModel, PreTrainedModel

from media.audio import AudioError, read_audio
from media.scaling import Scaling
from modeling.feature_extraction_audio import AudioFeatureExtractor

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
PLOT_SUFFIXES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Prediction:
    """What a model says about one sound."""

    file: Path
    times: np.ndarray  # (T,) seconds
    values: np.ndarray  # (T, C)
    deviations: np.ndarray | None  # (T, C), the standard deviation that a Gaussian head predicts
    channels: tuple[str, ...]
    unit: str


def find_sounds(paths: Sequence[Path]) -> list[Path]:
    """The audio files among files and folders, in order; a name that is not there is an error."""
    sounds = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not found:
                raise ValueError(f"{path}: no audio file in this folder; it is searched for {' '.join(SUFFIXES)}")
            sounds += found
        elif path.is_file():
            sounds.append(path)
        else:
            raise ValueError(f"{path}: no such file or folder")
    return sounds


def load_model(name: str, device: str) -> tuple[PreTrainedModel, AudioFeatureExtractor]:
    """A model and its features, from a folder or the Hub."""
    if not Path(name).exists() and name.count("/") != 1:
        raise ValueError(f"{name}: no such folder, and not a name on the Hub (user/model)")
    try:
        model = AutoModel.from_pretrained(name).to(torch.device(device)).eval()
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{name} on device {device!r}: {error}") from error
    return model, AudioFeatureExtractor.from_pretrained(name)


@torch.inference_mode()
def predict_sounds(
    model: PreTrainedModel, extractor: AudioFeatureExtractor, sounds: Sequence[Path], listener: str | None
) -> tuple[list[Prediction], list[str]]:
    """Predictions on the model's time grid, in the unit of its target, and why some sounds have none."""
    scaling = Scaling.from_dict(model.config.target_scaling)
    if listener is not None and listener not in scaling.listeners:
        known = ", ".join(sorted(scaling.listeners)[:8]) or "none: the model was not scaled by listener"
        raise ValueError(f"listener {listener!r} was not in the training; among those who were: {known}")
    predictions, unreadable = [], []
    for sound in tqdm(sounds, desc="predicting", unit="sound"):
        try:
            samples, rate = read_audio(sound, extractor.sampling_rate)
        except AudioError as error:
            unreadable.append(str(error))
            continue
        batch = extractor(samples, sampling_rate=rate, return_tensors="pt").to(model.device)
        output = model(**batch)
        values = output.predictions[0].double().cpu().numpy()  # (T, C)
        deviations = None if output.log_variance is None else (output.log_variance[0] / 2).exp().double().cpu().numpy()
        if scaling.scope != "trial":
            zero = scaling.invert(np.zeros_like(values), listener)
            values = scaling.invert(values, listener)
            deviations = None if deviations is None else scaling.invert(deviations, listener) - zero
        times = np.arange(len(values)) / model.config.frame_rate
        predictions.append(Prediction(sound, times, values, deviations, scaling.channels, scaling.unit))
    return predictions, unreadable


def check_outputs(table: Path, plot: Path | None) -> None:
    """Refuse names that could not be written, before the work rather than after it."""
    for path in (path for path in (table, plot) if path is not None):
        if not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: its folder does not exist; make it, or name another")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file")
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise ValueError(f"{plot}: a picture's name ends in one of {', '.join(PLOT_SUFFIXES)}")


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """A CSV with a row a frame: file, time_seconds, a column a channel named with its unit, and its deviation."""
    draft = path.with_name(path.name + ".part")
    with open(draft, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        first = predictions[0]
        names = [f"{channel} ({first.unit})" for channel in first.channels]
        if first.deviations is not None:
            names += [f"{channel} deviation ({first.unit})" for channel in first.channels]
        writer.writerow(["file", "time_seconds", *names])
        for prediction in predictions:
            columns = [part for part in (prediction.values, prediction.deviations) if part is not None]
            for time, values in zip(prediction.times, np.hstack(columns), strict=True):
                writer.writerow([prediction.file, f"{time:.3f}", *(f"{value:.6f}" for value in values)])
    os.replace(draft, path)
