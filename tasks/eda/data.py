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

CONTROL = "this run is a negative control: in training, each song had the audio of another song"


@dataclass(frozen=True)
class EdaData:
    """The items of each split, and the scaling of their targets."""

    tables: SignalTables
    split: Split
    scaling: Scaling
    sides: dict[str, TrialDataset]  # by split; "all" holds every trial
    training_mean: list[float]  # (C,) mean training target in scaled units, the prediction of a model without audio
    frame_rate: float  # Hz
    explain: bool = False
    control: str | None = None  # how training was altered on purpose, for a warning

    @property
    def train(self) -> TrialDataset:
        return self.sides["train"]

    @property
    def validation(self) -> TrialDataset:
        return self.sides["validation"]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Return RMSE and correlation in scaled units, averaged over trials and channels, to select a checkpoint."""
        predictions, labels = predicted_means(output), cast(np.ndarray, output.label_ids)  # (N, T, C)
        mask, names = labels != IGNORE_LABEL, ("rmse", "pearson")
        channel_scores = [
            validation_scores(names, predictions=predictions[..., c], references=labels[..., c], mask=mask[..., c])
            for c in range(labels.shape[-1])
        ]
        # A score is undefined if, for example, all predictions are constant. A mean over some channels would mislead.
        defined = [name for name in names if all(name in scores for scores in channel_scores)]
        return {name: float(np.mean([scores[name] for scores in channel_scores])) for name in defined}

    def record(self) -> dict[str, Any]:
        """Return the fields that `EdaDataRecord` adds to `DataRecord`."""
        sides = {
            name: {"trials": len(side), "songs": len(set(side.song_ids)), "listeners": len(set(side.listeners))}
            for name, side in self.sides.items()
        }
        listeners = {listener for side in self.sides.values() for listener in side.listeners}
        fallback_listeners = sorted(listener for listener in listeners if self.scaling.falls_back(listener))
        return self.tables.counts | {
            "sides": sides,
            "trials_between_sides": self.split.dropped,
            "listeners_scaled_by_everyone": fallback_listeners,
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
    """Compute features, split and scaling.

    Args:
        saved: metrics.json of the run that trained the model, if the model is only scored. Its scaling is reused.
    """
    settings = run.settings.target
    # One process computes the tables, and the others read its cache.
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
    indices = {side: split.indices(side) for side in SIDES} | {"all": np.arange(len(split.trials))}
    sides = {side: TrialDataset(tables, members, scaling, window) for side, members in indices.items()}
    # Computed before songs are exchanged, because the exchange crops targets.
    mean = training_mean(sides["train"]) if saved is None else saved["data"]["training_mean"]
    # Only training is altered: the control is scored on the true audio.
    if trial_settings.shuffle_songs and saved is None:
        sides["train"].exchange_sounds(run.training.seed)
    control = CONTROL if trial_settings.shuffle_songs else None
    explain = run.settings.report.explain
    data = EdaData(tables, split, scaling, sides, mean, settings.frame_rate, explain, control)
    log_counts(data)
    return data


def divide(trials: datasets.Dataset, settings: SplitSettings) -> Split:
    """Assign each trial to a split."""
    columns = trials.select_columns(["song_id", "listener", "trial", "artist"])[:]
    return split_trials(columns["song_id"], columns["listener"], columns["trial"], columns["artist"], settings)


def window_frames(seconds: float, frame_rate: float) -> int:
    """Return the length of a training window in frames, 0 for whole trials."""
    frames = round(seconds * frame_rate)
    if seconds and not frames:
        raise ValueError(
            f"window_seconds={seconds}: shorter than a frame at frame_rate={frame_rate}. Give {1 / frame_rate:g} or "
            "more."
        )
    return frames


def training_scaling(tables: SignalTables, split: Split, settings: EdaSettings) -> Scaling:
    """Fit the target scaling on the training trials only."""
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
    """Return the mean training target (C,) in scaled units, over all frames that count."""
    labels = np.concatenate(train.labels)  # (frames, C)
    scored = labels != IGNORE_LABEL
    # float64, because a float32 sum over all frames loses digits.
    return (np.where(scored, labels, 0).sum(axis=0, dtype=np.float64) / scored.sum(axis=0)).tolist()


def log_counts(data: EdaData) -> None:
    """Log the trials of each split, and warnings that affect the scores."""
    record = data.record()
    logger.info("Trials per split: %s", {side: counts["trials"] for side, counts in record["sides"].items()})
    for key in ("control", "split_warning", "listeners_scaled_by_everyone"):
        if record[key]:
            logger.warning("%s: %s", key.replace("_", " "), record[key])


def check_sides(split: Split) -> None:
    """Raise ValueError if a split has no trial."""
    empty = [side for side in SIDES if not len(split.indices(side))]
    if empty:
        raise ValueError(
            f"split_by={split.settings.split_by}: no trial in {' and '.join(empty)} "
            f"({plural(len(split.trials), 'trial')}, {split.dropped} between splits). Change split_seed, the "
            "fractions or split_by."
        )


def predicted_means(output: EvalPrediction | PredictionOutput) -> np.ndarray:
    """Return the predicted means (N, T, C)."""
    # A Gaussian head returns a tuple of means and log variances.
    return output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
