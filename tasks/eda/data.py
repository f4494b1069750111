"""Prepare trials for training: features, split and target scaling."""

import logging
from dataclasses import dataclass
from typing import Any, cast

import datasets
import numpy as np
from transformers import EvalPrediction
from transformers.trainer_utils import PredictionOutput

from evaluation.splits import SIDES, Split, SplitSettings, split_trials
from evaluation.validation import validation_scores
from media.eda_settings import EdaSettings
from media.scaling import Scaling, fit_scaling
from modeling.feature_extraction_audio import AudioFeatureExtractor
from modeling.layers import IGNORE_LABEL
from system.text import plural
from tasks.eda.items import SignalTables, TrialDataset, make_tables, trial_values
from tasks.eda.settings import EdaTaskSettings
from training.task import Run

logger = logging.getLogger(__name__)


CONTROL = "this is a control: the model was trained with each song's sound exchanged for that of another"


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
        """RMSE and correlation in scaled units, averaged over trials and channels: to choose a checkpoint by."""
        predictions, labels = means_of(output), cast(np.ndarray, output.label_ids)  # (N, T, C)
        mask, names = labels != IGNORE_LABEL, ("rmse", "pearson")
        of_channels = [
            validation_scores(names, predictions=predictions[..., c], references=labels[..., c], mask=mask[..., c])
            for c in range(labels.shape[-1])
        ]
        everywhere = [name for name in names if all(name in scores for scores in of_channels)]
        return {name: float(np.mean([scores[name] for scores in of_channels])) for name in everywhere}

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


def prepare(
    rows: datasets.Dataset,
    extractor: AudioFeatureExtractor,
    run: Run[EdaTaskSettings],
    saved: dict[str, Any] | None = None,
) -> EdaData:
    """Features, split and scaling; `saved` is the record of a finished run, whose scaling is then kept."""
    settings = run.settings.target
    with run.training.main_process_first(desc="features"):
        tables = make_tables(rows, extractor, settings, run.arguments.preprocessing_processes)
    split = divide(tables.trials, run.settings.split)
    if saved is None:
        check_sides(split)
        scaling = training_scaling(tables, split, settings)
    else:
        scaling = Scaling.from_dict(saved["data"]["target_scaling"])
    trial_settings = run.settings.trials
    window = window_frames(trial_settings.window_seconds, settings.frame_rate)
    members = {side: split.indices(side) for side in SIDES} | {"all": np.arange(len(split.trials))}
    sides = {side: TrialDataset(tables, rows, scaling, window) for side, rows in members.items()}
    mean = training_mean(sides["train"]) if saved is None else saved["data"]["training_mean"]
    if trial_settings.shuffle_songs and saved is None:
        sides["train"].exchange_sounds(run.training.seed)
    control = CONTROL if trial_settings.shuffle_songs else None
    explain = run.settings.report.explain
    data = EdaData(tables, split, scaling, sides, mean, settings.frame_rate, explain, control)
    log_what_was_kept(data)
    return data


def divide(trials: datasets.Dataset, settings: SplitSettings) -> Split:
    """Return the side of each trial."""
    columns = trials.select_columns(["song_id", "listener", "trial", "artist"])[:]
    return split_trials(columns["song_id"], columns["listener"], columns["trial"], columns["artist"], settings)


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


def check_sides(split: Split) -> None:
    """Every side needs a trial."""
    empty = [side for side in SIDES if not len(split.indices(side))]
    if empty:
        raise ValueError(
            f"the split leaves {' and '.join(empty)} without a trial ({plural(len(split.trials), 'trial')}, "
            f"{split.dropped} between sides); change split_seed, the fractions or split_by"
        )


def means_of(output: EvalPrediction | PredictionOutput) -> np.ndarray:
    """Return the predicted means (N, T, C); a Gaussian head gives log variances, too."""
    return output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
