"""Predict skin conductance from sound."""

from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import AutoFeatureExtractor, AutoModel, PreTrainedModel, Trainer

from evaluation.splits import SplitSettings
from media.eda_settings import EdaSettings
from modeling import SIGNAL_MODELS
from modeling.feature_extraction_audio import AudioFeatureExtractor
from modeling.layers import warn_if_receptive_field_exceeds
from tasks.eda import study
from tasks.eda.collator import SignalCollator
from tasks.eda.data import EdaData, ReportSettings, TrialSettings
from tasks.eda.items import ragged_column
from training.build import build_extractor
from training.prediction import SUFFIXES as SOUND_SUFFIXES
from training.samplers import LengthGroupedSampler
from training.settings import Run
from training.trainer import SignalTrainer

SMALLEST_FEATURE_DEVIATION = 1e-3  # dB; a feature that varies less is a constant, and is centred only


NAME = "eda"
ARGUMENTS = (EdaSettings, TrialSettings, SplitSettings, ReportSettings)
COLUMNS = ("song_id", "artist", "audio", "eda_rate", "trials", "defects", "synthetic")  # of the data
STREAMED = ()
NOT_STREAMED = "each sound is read once, to make features of it, which are kept on the disk"
AUTO_MODEL, MODELS = AutoModel, tuple(config for config, _ in SIGNAL_MODELS)
AUTO_EXTRACTOR = AutoFeatureExtractor
SUFFIXES, OUTPUT_SUFFIX = SOUND_SUFFIXES, ".csv"  # of recordings, and of what is said of them
PREDICTION_OPTIONS: tuple[str, ...] = ("listener",)  # of run_predict.py, beside those of every task
TRAINER = SignalTrainer
STUDY = study


VALIDATION_METRICS = {"rmse": False, "pearson": True, "loss": False}  # name -> whether more is better


def features(run: Run) -> AudioFeatureExtractor:
    """What makes a model's inputs of sound."""
    return build_extractor(run.arguments, **feature_settings(run))


def feature_settings(run: Run) -> dict[str, Any]:
    """What the task demands of the audio features: the grid of the EDA, and no look ahead for a causal model."""
    settings = run.settings(EdaSettings)
    return {"frame_rate": settings.frame_rate, "pooling": "past" if settings.causal else "centered"}


def model_settings(data: EdaData, extractor: AudioFeatureExtractor, run: Run) -> dict[str, Any]:
    """What of a model follows from the data."""
    return {
        "input_size": extractor.feature_size,
        "output_size": len(data.tables.channels),
        "causal": run.settings(EdaSettings).causal,
        "frame_rate": data.frame_rate,
        "target_channels": list(data.tables.channels),
        "target_unit": data.scaling.unit,
        "target_scaling": data.scaling.to_dict(),
    }


def initialise(model: PreTrainedModel, data: EdaData, new: bool, resumed: bool = False) -> None:
    """Look at a model's reach, and give a new one the level and spread of its inputs over the training songs."""
    warn_if_receptive_field_exceeds(model.config, max(max(side.lengths, default=0) for side in data.sides.values()))
    if not new:
        return
    songs = sorted({int(song) for song in data.tables.trials.select(data.split.indices("train"))["song"]})
    features = ragged_column(data.tables.songs, "input_features")
    frames = np.concatenate([features[song].reshape(-1, model.config.input_size) for song in songs])  # (T, F)
    deviation = frames.std(axis=0)
    deviation = np.where(deviation < SMALLEST_FEATURE_DEVIATION, 1.0, deviation)
    model.set_input_scaling(frames.mean(axis=0), deviation)


def collator(extractor: AudioFeatureExtractor, run: Run) -> SignalCollator:
    """How items become a batch."""
    return SignalCollator()


def sampler(data: EdaData, run: Run) -> Callable[[int], LengthGroupedSampler]:
    """The order of training, for a batch size that the trainer knows."""
    return lambda batch_size: LengthGroupedSampler(data.train.window_lengths, batch_size, run.training.seed)


def trainer_settings(data: EdaData, run: Run) -> dict[str, Any]:
    """What the trainer needs beside what all trainers do: nothing."""
    return {}


def about_training(trainer: Trainer, data: EdaData) -> dict[str, Any]:
    """What this task records of a training beside what all do: nothing."""
    return {}


def extra_pages(trainer: Trainer, data: EdaData) -> dict[str, str]:
    """Files that this task leaves beside card and report: none."""
    return {}
