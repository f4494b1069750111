"""Audio -> skin conductance: what is predicted, on whom it is tested, and how that is scored."""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from transformers import AutoFeatureExtractor, AutoModel, EvalPrediction, PreTrainedModel, Trainer
from transformers.trainer_utils import PredictionOutput

from evaluation.assessment import assess, longest_of_song
from evaluation.baselines import HEARS, HEARS_NOTHING, Heard, mean_of_others
from evaluation.controls import detrended_correlation
from evaluation.descriptors import DESCRIPTORS
from evaluation.explanations import occluded_bands, occluded_moments, temporal_response
from evaluation.masked import summary
from evaluation.metrics.pearson import pearson
from evaluation.metrics.rmse import rmse
from evaluation.splits import SIDES, Split, SplitSettings, split_trials
from evaluation.trials import Trials, pad_rows
from media.eda_settings import EdaSettings
from media.scaling import Scaling, fit_scaling
from modeling import SIGNAL_MODELS
from modeling.feature_extraction_audio import AudioFeatureExtractor
from modeling.layers import IGNORE_LABEL, warn_if_receptive_field_exceeds
from training import study_of_trials
from training.arguments import Run
from training.build import build_extractor
from training.collators import SignalCollator
from training.prediction import SUFFIXES as SOUND_SUFFIXES
from training.prediction import Prediction, predict_sound, write_predictions
from training.samplers import LengthGroupedSampler
from training.signals import SignalTables, TrialDataset, make_tables, ragged_column, trial_values
from training.trainer import SignalTrainer

logger = logging.getLogger(__name__)

SMALLEST_FEATURE_DEVIATION = 1e-3  # dB; a feature that varies less is a constant, and is centred only


@dataclass(frozen=True)
class TrialSettings:
    """How trials become training items."""

    window_seconds: float = field(
        default=20.0, metadata={"help": "Length of the random training windows in seconds; 0 takes whole trials."}
    )
    shuffle_songs: bool = field(
        default=False,
        metadata={"help": "A control: train with each song's sound exchanged for that of another."},
    )

    def __post_init__(self) -> None:
        if self.window_seconds < 0:
            raise ValueError(f"window_seconds = {self.window_seconds} must be positive, or 0 for whole trials")


@dataclass(frozen=True)
class ReportSettings:
    """What is reported beside the scores."""

    explain: bool = field(
        default=False,
        metadata={"help": "Report responses over lag, and what the model loses without a band or a moment of sound."},
    )


ARGUMENTS = (EdaSettings, TrialSettings, SplitSettings, ReportSettings)
COLUMNS = ("song_id", "artist", "audio", "eda_rate", "trials", "defects", "synthetic")  # of the data
STREAMED = ()
NOT_STREAMED = "each sound is read once, to make features of it, which are kept on the disk"
AUTO_MODEL, MODELS = AutoModel, tuple(config for config, _ in SIGNAL_MODELS)
AUTO_EXTRACTOR = AutoFeatureExtractor
SUFFIXES, OUTPUT_SUFFIX = SOUND_SUFFIXES, ".csv"  # of recordings, and of what is said of them
PREDICTION_OPTIONS: tuple[str, ...] = ("listener",)  # of run_predict.py, beside those of every task
TRAINER = SignalTrainer
STUDY = study_of_trials
IN_SAMPLE = "The baselines were fitted on trials that are scored here, which flatters them; the test side has no such."
CONTROL = "this is a control: the model was trained with each song's sound exchanged for that of another"
VALIDATION_METRICS = {"rmse": False, "pearson": True, "loss": False}  # name -> whether more is better


@dataclass(frozen=True)
class EdaData:
    """A data set, divided and ready to be trained on."""

    tables: SignalTables
    split: Split
    scaling: Scaling
    sides: dict[str, TrialDataset]
    training_mean: list[float]  # (C,) of the training targets in scaled units: what a model that hears nothing says
    frame_rate: float  # Hz
    explain: bool = False
    control: str | None = None  # what was done to the training on purpose, for a warning

    @property
    def train(self) -> TrialDataset:
        """What weights are fitted on."""
        return self.sides["train"]

    @property
    def validation(self) -> TrialDataset:
        """What checkpoints are chosen on."""
        return self.sides["validation"]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """RMSE and correlation of the validation."""
        return validation_metrics(output)

    def record(self) -> dict[str, Any]:
        """What was left out, and what each side holds."""
        sides = {
            name: {"trials": len(side), "songs": len(set(side.song_ids)), "listeners": len(set(side.listeners))}
            for name, side in self.sides.items()
        }
        unseen = [listener for side in self.sides.values() for listener in side.listeners]
        fallen_back = sorted({listener for listener in unseen if self.scaling.falls_back(listener)})
        return self.tables.counts | {
            "sides": sides,
            "trials_between_sides": self.split.dropped,
            "listeners_scaled_by_everyone": fallen_back,
            "split_warning": self.split.record()["warning"],
            "control": self.control,
            "training_mean": self.training_mean,
            "target_scaling": self.scaling.to_dict(),
        }


def features(run: Run) -> AudioFeatureExtractor:
    """What makes a model's inputs of sound."""
    return build_extractor(run.arguments, **feature_settings(run))


def feature_settings(run: Run) -> dict[str, Any]:
    """What the task demands of the audio features: the grid of the EDA, and no look ahead for a causal model."""
    settings = run.settings(EdaSettings)
    return {"frame_rate": settings.frame_rate, "pooling": "past" if settings.causal else "centered"}


def prepare(
    rows: datasets.Dataset, extractor: AudioFeatureExtractor, run: Run, saved: dict[str, Any] | None = None
) -> EdaData:
    """Features, split and scaling; `saved` is the record of a finished run, whose scaling is then kept."""
    settings, split_settings = run.settings(EdaSettings), run.settings(SplitSettings)
    with run.training.main_process_first(desc="features"):
        tables = make_tables(rows, extractor, settings, run.arguments.preprocessing_processes)
    trials = tables.trials.select_columns(["song_id", "listener", "trial", "artist"])[:]
    split = split_trials(trials["song_id"], trials["listener"], trials["trial"], trials["artist"], split_settings)
    if saved is None:
        check_scaling_scope(settings, split_settings)
        check_sides(split)
        scaling = training_scaling(tables, split, settings)
    else:
        scaling = Scaling.from_dict(saved["data"]["target_scaling"])
    trial_settings = run.settings(TrialSettings)
    window = window_frames(trial_settings.window_seconds, settings.frame_rate)
    members = {side: split.indices(side) for side in SIDES} | {"all": np.arange(len(split.trials))}
    sides = {side: TrialDataset(tables, rows, scaling, window) for side, rows in members.items()}
    mean = training_mean(sides["train"]) if saved is None else saved["data"]["training_mean"]
    if trial_settings.shuffle_songs and saved is None:
        sides["train"].exchange_sounds(run.training.seed)
    control = CONTROL if trial_settings.shuffle_songs else None
    explain = run.settings(ReportSettings).explain
    data = EdaData(tables, split, scaling, sides, mean, settings.frame_rate, explain, control)
    log_what_was_kept(data)
    return data


def window_frames(seconds: float, frame_rate: float) -> int:
    """Frames of a training window; 0 for whole trials."""
    frames = round(seconds * frame_rate)
    if seconds and not frames:
        raise ValueError(f"window_seconds = {seconds} is less than a frame at frame_rate = {frame_rate} Hz")
    return frames


def training_scaling(tables: SignalTables, split: Split, settings: EdaSettings) -> Scaling:
    """The scaling of the targets, from the training trials alone."""
    members = split.indices("train")
    return fit_scaling(
        trial_values(tables, members),
        tables.trials.select(members)["listener"][:],
        settings.normalisation,
        settings.normalisation_scope,
        channels=tables.channels,
        unit=settings.unit,
    )


def training_mean(train: TrialDataset) -> list[float]:
    """The mean of the training targets (C,) in scaled units."""
    labels = np.concatenate(train.labels)  # (frames, C)
    scored = labels != IGNORE_LABEL
    return (np.where(scored, labels, 0).sum(axis=0, dtype=np.float64) / scored.sum(axis=0)).tolist()


def log_what_was_kept(data: EdaData) -> None:
    """The trials of each side, and what a reader of the scores must know."""
    record = data.record()
    logger.info("trials: %s", {side: counts["trials"] for side, counts in record["sides"].items()})
    for key in ("control", "split_warning", "listeners_scaled_by_everyone"):
        if record[key]:
            logger.warning("%s: %s", key.replace("_", " "), record[key])


def check_scaling_scope(settings: EdaSettings, split_settings: SplitSettings) -> None:
    """Refuse statistics that a test listener cannot have."""
    unseen = split_settings.split_by in ("listener", "song_listener", "leave_one_listener_out")
    if settings.normalisation_scope == "listener" and unseen:
        raise ValueError(
            f"normalisation_scope listener with split_by {split_settings.split_by}: the listeners of the test have no "
            "training trials to take statistics from; use normalisation_scope global or trial"
        )


def check_sides(split: Split) -> None:
    """Every side needs a trial."""
    empty = [side for side in SIDES if not len(split.indices(side))]
    if empty:
        raise ValueError(
            f"the split leaves {' and '.join(empty)} without a trial ({len(split.trials)} trials, "
            f"{split.dropped} between sides); change split_seed, the fractions or split_by"
        )


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


def validation_metrics(output: EvalPrediction) -> dict[str, float]:
    """RMSE and correlation in scaled units, averaged over trials and channels: to choose a checkpoint by."""
    predictions, labels = means_of(output), output.label_ids  # (N, T, C)
    mask = labels != IGNORE_LABEL
    scores = {"rmse": rmse.per_trial, "pearson": pearson.per_trial}
    by_channel = {
        name: [summary(name, score(predictions[..., c], labels[..., c], mask[..., c]))[name] for c in channels(labels)]
        for name, score in scores.items()
    }
    return {name: float(np.mean(values)) for name, values in by_channel.items() if None not in values}


def channels(values: np.ndarray) -> range:
    """The channels of (..., C)."""
    return range(values.shape[-1])


def means_of(output: EvalPrediction | PredictionOutput) -> np.ndarray:
    """The predicted means (N, T, C); a Gaussian head gives log variances beside them."""
    return output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions


def evaluate(trainer: Trainer, data: EdaData, side: str) -> tuple[dict[str, Any], pa.Table]:
    """The assessment of one side, a channel at a time, and the predictions behind it."""
    dataset = data.sides[side]
    if not len(dataset):
        raise ValueError(f"nothing to score: the {side} side has no trial; change split_seed, the fractions or data")
    output = trainer.predict(dataset, metric_key_prefix=side)
    predictions = [row[: len(labels)] for row, labels in zip(means_of(output), dataset.labels, strict=True)]  # scaled
    results = {
        "unit": data.scaling.unit,
        "trials": len(dataset),
        "songs": len(set(dataset.song_ids)),
        "listeners": len(set(dataset.listeners)),
        "note": IN_SAMPLE if side in ("all", "train") else None,
        "channels": {
            name: assess_channel(data, dataset, predictions, channel)
            for channel, name in enumerate(data.tables.channels)
        },
    }
    if data.explain:
        for channel, found in enumerate(results["channels"].values()):
            found["explanations"] = explain_channel(trainer, data, dataset, channel, found["interval_over"])
    return results, prediction_table(data, dataset, predictions)


def explain_channel(trainer: Trainer, data: EdaData, dataset: TrialDataset, channel: int, over: str) -> dict[str, Any]:
    """The ridge's response over lag, and what the model loses without a band or a moment of sound."""

    def predict(sounds: list[np.ndarray]) -> list[np.ndarray]:
        """One channel (T,) of what the model says of each sound (T, F), scaled."""
        blank = [np.zeros((len(sound), len(data.tables.channels)), np.float32) for sound in sounds]
        items = [{"input_features": sound, "labels": none} for sound, none in zip(sounds, blank, strict=True)]
        means = means_of(trainer.predict(items, metric_key_prefix="explain"))
        return [row[: len(sound), channel].astype(np.float64) for row, sound in zip(means, sounds, strict=True)]

    train, test = (heard(data.tables, each, channel, data.frame_rate) for each in (data.train, dataset))
    fill = np.concatenate(data.train.input_features).mean(axis=0)  # (F,)
    sounds = dataset.input_features
    by_song = list(dict(zip(dataset.song_ids, sounds, strict=True)).values())
    bands = occluded_bands(predict, sounds, fill, test.targets, test.masks, dataset.song_ids, dataset.listeners, over)
    names = trainer.processing_class.feature_names
    for band in bands:
        band["name"] = f"{names[band['first']]} to {names[band['last']]}"
    return {
        "response": temporal_response(train),
        "bands": bands,
        "absence": occluded_moments(predict, by_song, fill, data.frame_rate),
    }


def assess_channel(
    data: EdaData, dataset: TrialDataset, predictions: list[np.ndarray], channel: int
) -> dict[str, Any]:
    """Fit the baselines on the training side, and put the model (scaled predictions (T, C)) beside them."""

    def back(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One channel (T,) of each trial in the unit of the target."""
        return [in_unit(data.scaling, row, who, channel) for row, who in zip(rows, dataset.listeners, strict=True)]

    train, test = (heard(data.tables, each, channel, data.frame_rate) for each in (data.train, dataset))
    made = {name: fit(train)(test) for name, fit in (HEARS_NOTHING | HEARS).items()} | {"others": mean_of_others(test)}
    scaled = [prediction[:, channel].astype(np.float64) for prediction in predictions]
    masked = [np.where(mask, target, 0.0) for target, mask in zip(test.targets, test.masks, strict=True)]
    constant = [np.full(1, data.training_mean[channel])] * len(dataset)
    model = Trials.pad(
        back(scaled), back(masked), test.masks, dataset.song_ids, dataset.listeners, data.frame_rate, data.scaling.unit
    )
    return assess(
        model,
        {name: pad_rows(back(rows), np.float64) for name, rows in made.items()},
        np.concatenate(back(constant)),
        longest_of_song(scaled, dataset.song_ids),
        pad_rows(masked, np.float64),
    )


def heard(tables: SignalTables, dataset: TrialDataset, channel: int, frame_rate: float) -> Heard:
    """One channel of some trials with the describable sound of their songs, for the baselines."""
    width = len(DESCRIPTORS)
    labels = [trial[:, channel].astype(np.float64) for trial in dataset.labels]
    return Heard(
        targets=labels,
        masks=[trial != IGNORE_LABEL for trial in labels],
        songs=dataset.songs,
        descriptors=[flat.reshape(-1, width) for flat in ragged_column(tables.songs, "descriptors")],
        frame_rate=frame_rate,
    )


def in_unit(scaling: Scaling, values: np.ndarray, listener: str, channel: int) -> np.ndarray:
    """Scaled values (T,) of a channel in the unit that the scaling promises; per-trial units stay, and say so."""
    if scaling.scope == "trial":
        return values
    wide = np.zeros((len(values), len(scaling.channels)))
    wide[:, channel] = values
    return scaling.invert(wide, listener)[:, channel]


def prediction_table(data: EdaData, dataset: TrialDataset, predictions: list[np.ndarray]) -> pa.Table:
    """A row a trial and channel: who heard what, target (null where it does not count), prediction, scores."""
    records = []
    for index, (labels, prediction) in enumerate(zip(dataset.labels, predictions, strict=True)):
        listener = dataset.listeners[index]
        for channel, name in enumerate(data.tables.channels):
            target = in_unit(data.scaling, labels[:, channel], listener, channel)
            scored = labels[:, channel] != IGNORE_LABEL
            made = in_unit(data.scaling, prediction[:, channel], listener, channel)
            (r,) = detrended_correlation(made[None], target[None], scored[None])
            records.append(
                {
                    "song_id": dataset.song_ids[index],
                    "listener": listener,
                    "trial": dataset.trials[index],
                    "channel": name,
                    "unit": data.scaling.unit,
                    "frame_rate": data.frame_rate,
                    "target": [value if keep else None for value, keep in zip(target.tolist(), scored, strict=True)],
                    "prediction": made.tolist(),
                    "rmse": float(np.sqrt(np.mean((made - target)[scored] ** 2))) if scored.any() else None,
                    "detrended_pearson": float(r) if np.isfinite(r) else None,
                }
            )
    return pa.Table.from_pylist(records)


def predict(
    model: PreTrainedModel, extractor: AudioFeatureExtractor, sounds: Sequence[Path], arguments: argparse.Namespace
) -> tuple[list[Prediction], list[str], str]:
    """Write the predictions for some sounds; they, why some have none, and a line that says what was written."""
    predictions, unreadable = write_predictions(
        lambda sound: predict_sound(model, extractor, sound, arguments.listener),
        sounds,
        arguments.output,
        keep=arguments.plot is not None,
    )
    said = ", ".join(predictions[0].channels) + f" in {predictions[0].unit}" if predictions else ""
    return predictions, unreadable, said
