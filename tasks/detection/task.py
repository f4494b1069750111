"""Detect a target sound among millions of others."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, FeatureExtractionMixin, PreTrainedModel

from tasks.detection import study
from tasks.detection.augmentation import Augmentation
from tasks.detection.collator import DetectionCollator
from tasks.detection.data import DetectionData, ScoreSettings
from tasks.detection.mining import MiningSettings, MiningTable
from tasks.detection.pools import PoolSettings
from tasks.detection.predict import Detections, detect
from tasks.detection.sampler import SamplerSettings, TwoTierBatchSampler
from tasks.detection.trainer import TargetSoundTrainer
from tasks.detection.windows import WindowSettings
from training.build import OUR_TYPES, build_extractor
from training.prediction import SUFFIXES as SOUND_SUFFIXES
from training.prediction import write_predictions
from training.settings import Run

SCALED_ON = 512  # windows whose features give a new model the level and spread of its input
SMALLEST_FEATURE_DEVIATION = 1e-3  # dB; a feature that varies less is a constant, and is centred only


NAME = "detection"
ARGUMENTS = (PoolSettings, WindowSettings, Augmentation, SamplerSettings, MiningSettings, ScoreSettings)


STREAMED = ()
NOT_STREAMED = "its clips are files, each fetched ahead of its use already"
AUTO_MODEL, MODELS = AutoModelForAudioClassification, tuple(AutoModelForAudioClassification._model_mapping)
AUTO_EXTRACTOR = AutoFeatureExtractor
SUFFIXES, OUTPUT_SUFFIX = SOUND_SUFFIXES, ".csv"  # of recordings, and of what is said of them
PREDICTION_OPTIONS: tuple[str, ...] = ("threshold",)  # of run_predict.py, beside those of every task
TRAINER = TargetSoundTrainer
STUDY = study
VALIDATION_METRICS = {"average_precision": True, "roc_auc": True, "loss": False}  # name -> whether more is better


def features(run: Run) -> FeatureExtractionMixin:
    """What makes a model's inputs of sound."""
    return build_extractor(run.arguments, **feature_settings(run))


def feature_settings(run: Run) -> dict[str, Any]:
    """What the task demands of the audio features: the windows' rate, and a spectrum a frame for our own models."""
    settings = {"sampling_rate": run.settings(WindowSettings).sampling_rate}
    return settings | ({"frame_rate": None} if run.arguments.model_type in OUR_TYPES else {})


def model_settings(data: DetectionData, extractor: FeatureExtractionMixin, run: Run) -> dict[str, Any]:
    """What of a model follows from the data."""
    name = " or ".join(data.target_names())
    settings = {"id2label": {0: name}, "label2id": {name: 0}, "problem_type": "multi_label_classification"}
    if run.arguments.model_type in OUR_TYPES:
        rate = extractor.sampling_rate / extractor.hop_length  # Hz
        settings |= {"input_size": extractor.feature_size, "frame_rate": rate}
    return settings


def initialise(model: PreTrainedModel, data: DetectionData, new: bool, resumed: bool = False) -> None:
    """Give a new model of ours the level and spread of its inputs over some training windows."""
    if not new or model.config.model_type not in OUR_TYPES:
        return
    items = np.linspace(0, len(data.train) - 1, min(SCALED_ON, len(data.train))).astype(int)
    sounds = [data.train[int(item)]["audio"] for item in np.unique(items)]
    features = data.extractor(sounds, sampling_rate=data.extractor.sampling_rate)["input_features"]  # (N, T, F)
    frames = features.flatten(0, 1).double()
    deviation = frames.std(0)
    model.set_input_scaling(frames.mean(0), deviation.where(deviation >= SMALLEST_FEATURE_DEVIATION, 1.0))


def collator(extractor: FeatureExtractionMixin, run: Run) -> DetectionCollator:
    """How windows become a batch."""
    return DetectionCollator(extractor, run.settings(Augmentation))


def sampler(data: DetectionData, run: Run) -> Callable[[int], TwoTierBatchSampler]:
    """The plan of training, for a batch size that the trainer knows."""
    settings = run.settings(SamplerSettings)

    def make(batch_size: int) -> TwoTierBatchSampler:
        return TwoTierBatchSampler.from_pools(
            data.pools, settings, batch_size, run.training.seed, run.training.world_size
        )

    return make


def trainer_settings(data: DetectionData, run: Run) -> dict[str, Any]:
    """What the trainer needs beside what all trainers do."""
    settings = run.settings(MiningSettings)
    return {"pools": data.pools, "mining": MiningTable(settings, data.pools) if settings.mining else None}


def predict(
    model: PreTrainedModel, extractor: FeatureExtractionMixin, sounds: Sequence[Path], arguments: argparse.Namespace
) -> tuple[list[Detections], list[str], str]:
    """Write the events in some recordings; they, why some have none, and a line that says what was written."""
    if arguments.listener is not None:
        raise ValueError("--listener: a detector knows no listeners; leave it out")
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        raise ValueError(f"--threshold {arguments.threshold}: give a score from 0 to 1")
    events = 0

    def parts(sound: Path) -> Iterator[Detections]:
        nonlocal events
        for part in detect(model, extractor, sound, arguments.threshold):
            events += len(part.events)
            yield part

    found, unreadable = write_predictions(parts, sounds, arguments.output, keep=arguments.plot is not None)
    said = f"{events} events of {found[0].target} at threshold {found[0].threshold:.3g}" if found else ""
    return found, unreadable, said
