"""Predict skin conductance from sound."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from transformers import AutoFeatureExtractor, AutoModel, PreTrainedConfig, PreTrainedModel

from modeling import SIGNAL_MODELS
from modeling.feature_extraction_audio import AudioFeatureExtractor
from modeling.layers import warn_if_receptive_field_exceeds
from modeling.modeling_signal import SignalRegressionModel
from reporting.card import CardMetadata
from reporting.sections import Section
from tasks.eda import report, study
from tasks.eda import results as scores_of_run
from tasks.eda.collator import SignalCollator
from tasks.eda.data import EdaData, check_sides, divide, prepare
from tasks.eda.evaluate import evaluate
from tasks.eda.items import array_column, make_trials
from tasks.eda.plots import plot_predictions
from tasks.eda.predict import check_listener, predict
from tasks.eda.records import EdaDataRecord
from tasks.eda.settings import EdaTaskSettings
from training.build import build_extractor
from training.prediction import SUFFIXES
from training.samplers import LengthGroupedSampler
from training.task import Evaluation, Predicted, Run, Task

# dB. A feature with a smaller standard deviation is constant up to rounding: it is centred but not scaled, because
# dividing by its deviation would turn rounding errors into inputs of size 1.
SMALLEST_FEATURE_DEVIATION = 1e-3


class EdaTask(Task[EdaTaskSettings, EdaData]):
    name = "eda"
    settings = EdaTaskSettings
    columns = ("song_id", "artist", "audio", "eda_rate", "trials", "defects", "synthetic")
    auto_model = AutoModel
    model_configs = tuple(config for config, _ in SIGNAL_MODELS)
    auto_extractor = AutoFeatureExtractor
    suffixes = SUFFIXES
    prediction_options = ("listener",)
    simple_baseline = "ridge"
    study = study.TABLES
    data_record = EdaDataRecord

    def features(self, run: Run[EdaTaskSettings]) -> AudioFeatureExtractor:
        """Return an extractor with the frame rate of the target. For a causal model, it has no look-ahead."""
        target = run.settings.target
        pooling = "past" if target.causal else "centered"
        extractor = build_extractor(run.arguments, frame_rate=target.frame_rate, pooling=pooling)
        return cast(AudioFeatureExtractor, extractor)

    def prepare(
        self,
        rows: datasets.Dataset,
        extractor: AudioFeatureExtractor,
        run: Run[EdaTaskSettings],
        saved: dict[str, Any] | None = None,
    ) -> EdaData:
        return prepare(rows, extractor, run, saved)

    def ids_of(self, rows: datasets.Dataset, run: Run[EdaTaskSettings], kind: str) -> list[str]:
        # In the table of trials, `song` is a row index and `song_id` is the id.
        return sorted(set(self.trials_of(rows, run)[{"song": "song_id"}.get(kind, kind)]))

    def check_split(self, rows: datasets.Dataset, run: Run[EdaTaskSettings]) -> None:
        check_sides(divide(self.trials_of(rows, run), run.settings.split))

    def trials_of(self, rows: datasets.Dataset, run: Run[EdaTaskSettings]) -> datasets.Dataset:
        """Return the trials that pass the quality rules, from the cache if an earlier run computed them."""
        return make_trials(rows, run.settings.target, run.arguments.preprocessing_processes)[0]

    def model_settings(
        self, data: EdaData, extractor: AudioFeatureExtractor, run: Run[EdaTaskSettings]
    ) -> dict[str, Any]:
        return {
            "input_size": extractor.feature_size,
            "output_size": len(data.tables.channels),
            "causal": run.settings.target.causal,
            "frame_rate": data.frame_rate,
            "target_channels": list(data.tables.channels),
            "target_unit": data.scaling.unit,
            "target_scaling": data.scaling.to_dict(),
        }

    def initialise(self, model: PreTrainedModel, data: EdaData, new: bool, resumed: bool) -> None:
        """Check the receptive field, and set the input scaling of a new model from the training songs."""
        longest = max(max(side.lengths, default=0) for side in data.sides.values())
        warn_if_receptive_field_exceeds(model.config, longest)
        if not new:
            return
        # Each song once, however many listeners heard it, so that popular songs do not dominate the scaling.
        songs = sorted({int(song) for song in data.tables.trials.select(data.split.indices("train"))["song"]})
        features = array_column(data.tables.songs, "input_features")
        frames = np.concatenate([features[song] for song in songs])  # (T, F)
        deviation = frames.std(axis=0)
        deviation = np.where(deviation < SMALLEST_FEATURE_DEVIATION, 1.0, deviation)
        mean = frames.mean(axis=0)
        cast(SignalRegressionModel, model).set_input_scaling(torch.from_numpy(mean), torch.from_numpy(deviation))

    def collator(self, extractor: AudioFeatureExtractor, run: Run[EdaTaskSettings]) -> SignalCollator:
        return SignalCollator()

    def sampler(self, data: EdaData, run: Run[EdaTaskSettings]) -> Callable[[int], LengthGroupedSampler]:
        return lambda batch_size: LengthGroupedSampler(data.train.window_lengths, batch_size, run.training.seed)

    def evaluate(self, trainer: Any, data: EdaData, side: str) -> Evaluation:
        return evaluate(trainer, data, side)

    def check_prediction(
        self, config: PreTrainedConfig | None, files: Sequence[Path], arguments: argparse.Namespace
    ) -> None:
        super().check_prediction(config, files, arguments)
        check_listener(cast(PreTrainedConfig, config), arguments.listener)

    def predict(
        self,
        model: PreTrainedModel,
        extractor: AudioFeatureExtractor,
        files: Sequence[Path],
        arguments: argparse.Namespace,
    ) -> Predicted:
        return predict(cast(SignalRegressionModel, model), extractor, files, arguments)

    def plot_predictions(self, predictions: Sequence[Any]) -> Figure:
        return plot_predictions(predictions)

    def results_table(self, results: dict[str, Any]) -> str:
        return scores_of_run.results_table(results)

    def conclusion(self, results: dict[str, Any]) -> str:
        return scores_of_run.conclusion(results)

    def sections(self, facts: dict[str, Any], predictions: pa.Table | None) -> list[Section]:
        return report.sections(facts, predictions)

    def card_metadata(self, facts: dict[str, Any]) -> CardMetadata:
        return report.card_metadata(facts)


TASK = EdaTask()
