"""The detection task: detect a target sound among many others."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from matplotlib.figure import Figure
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from modeling import EncoderConfig
from modeling.modeling_encoder import EncoderForAudioClassification
from modeling.modeling_signal import SignalPreTrainedModel
from reporting.card import CardMetadata
from reporting.sections import Section
from tasks.detection import report, study
from tasks.detection import results as scores_of_run
from tasks.detection.collator import DetectionCollator, SoundExtractor
from tasks.detection.data import COLUMNS, DetectionData, prepare
from tasks.detection.evaluate import about_training, evaluate, extra_pages
from tasks.detection.input_scaling import scale_features
from tasks.detection.mining import MiningTable
from tasks.detection.plots import plot_detections, plot_tags
from tasks.detection.predict import Tags, check_threshold, predict, prediction_settings
from tasks.detection.pretrained import cache_embeddings, encoder_features, encoder_model_settings, initialise_head
from tasks.detection.records import DetectionDataRecord, DetectionTrainingRecord
from tasks.detection.sampler import TwoTierBatchSampler
from tasks.detection.settings import DetectionTaskSettings
from tasks.detection.trainer import TargetSoundTrainer
from training.build import OUR_TYPES, build_extractor
from training.prediction import SUFFIXES
from training.task import Evaluation, Predicted, Run, Task


class DetectionTask(Task[DetectionTaskSettings, DetectionData]):
    name = "detection"
    settings = DetectionTaskSettings
    columns = COLUMNS
    auto_model = AutoModelForAudioClassification
    model_configs = tuple(AutoModelForAudioClassification._model_mapping)
    auto_extractor = AutoFeatureExtractor
    trainer = TargetSoundTrainer
    suffixes = SUFFIXES
    prediction_options = ("target", "threshold")
    simple_baseline = "mfcc_regression"
    study = study.TABLES
    data_record = DetectionDataRecord
    training_record = DetectionTrainingRecord

    def features(self, run: Run[DetectionTaskSettings]) -> FeatureExtractionMixin:
        """Return an extractor at the sampling rate of the windows; our own models get one spectrum per frame.

        Raises ValueError if `encoder` is set for a model type without one.
        """
        uses_encoder = run.arguments.model_type == EncoderConfig.model_type
        if run.settings.encoder.encoder and not uses_encoder:
            raise ValueError(
                f"encoder={run.settings.encoder.encoder}: model_type={run.arguments.model_type} has no encoder. "
                f"Set model_type={EncoderConfig.model_type}, or remove the key."
            )
        if uses_encoder:
            return encoder_features(run)
        settings: dict[str, Any] = {"sampling_rate": run.settings.windows.sampling_rate}
        if run.arguments.model_type in OUR_TYPES:
            settings["frame_rate"] = None
        return build_extractor(run.arguments, **settings)

    def prepare(
        self,
        rows: datasets.Dataset,
        extractor: SoundExtractor,
        run: Run[DetectionTaskSettings],
        saved: dict[str, Any] | None = None,
    ) -> DetectionData:
        return prepare(rows, extractor, run, saved)

    def model_settings(self, data: DetectionData, extractor: Any, run: Run[DetectionTaskSettings]) -> dict[str, Any]:
        target = " or ".join(data.target_names())
        settings = {"id2label": {0: target}, "label2id": {target: 0}, "problem_type": "multi_label_classification"}
        if run.arguments.model_type == EncoderConfig.model_type:
            settings |= encoder_model_settings(data, run)
        elif run.arguments.model_type in OUR_TYPES:
            rate = extractor.sampling_rate / extractor.hop_length  # Hz
            settings |= {"input_size": extractor.feature_size, "frame_rate": rate}
        return settings

    def initialise(self, model: PreTrainedModel, data: DetectionData, new: bool, resumed: bool) -> None:
        """Scale the inputs of a new model of ours with training windows; an encoder model also gets its weights."""
        if new and isinstance(model, EncoderForAudioClassification):
            initialise_head(model, data)
        elif new and isinstance(model, SignalPreTrainedModel):
            scale_features(model, data.train, data.extractor)

    def cache(self, data: DetectionData, model: PreTrainedModel) -> DetectionData:
        """Embed all windows once if the model's encoder is frozen."""
        return cache_embeddings(data, model) if isinstance(model, EncoderForAudioClassification) else data

    def collator(self, extractor: SoundExtractor, run: Run[DetectionTaskSettings]) -> DetectionCollator:
        return DetectionCollator(extractor, run.settings.augmentation)

    def sampler(self, data: DetectionData, run: Run[DetectionTaskSettings]) -> Callable[[int], TwoTierBatchSampler]:
        settings, training = run.settings.sampler, run.training
        return lambda batch_size: TwoTierBatchSampler.from_pools(
            data.pools,
            settings,
            batch_size,
            training.seed,
            training.world_size,
            training.gradient_accumulation_steps,
        )

    def trainer_settings(self, data: DetectionData, run: Run[DetectionTaskSettings]) -> dict[str, Any]:
        settings = run.settings.mining
        return {
            "pools": data.pools,
            "mining": MiningTable(settings, data.pools) if settings.mining else None,
            "learning_rates": run.settings.encoder.learning_rates,
        }

    def evaluate(self, trainer: TargetSoundTrainer, data: DetectionData, side: str) -> Evaluation:
        return evaluate(trainer, data, side)

    def about_training(self, trainer: TargetSoundTrainer, data: DetectionData) -> dict[str, Any]:
        return about_training(trainer, data)

    def extra_pages(self, trainer: TargetSoundTrainer, data: DetectionData) -> dict[str, str]:
        return extra_pages(trainer, data)

    def check_prediction(
        self, config: PreTrainedConfig | None, files: Sequence[Path], arguments: argparse.Namespace
    ) -> None:
        super().check_prediction(config, files, arguments)
        check_threshold(arguments.threshold)
        if config is not None:
            prediction_settings(config, arguments.target, arguments.threshold)

    def predict(
        self,
        model: PreTrainedModel,
        extractor: SoundExtractor,
        files: Sequence[Path],
        arguments: argparse.Namespace,
    ) -> Predicted:
        return predict(model, extractor, files, arguments)

    def plot_predictions(self, predictions: Sequence[Any]) -> Figure:
        draw = plot_tags if isinstance(predictions[0], Tags) else plot_detections
        return draw(predictions)

    def results_table(self, results: dict[str, Any]) -> str:
        return scores_of_run.results_table(results)

    def conclusion(self, results: dict[str, Any]) -> str:
        return scores_of_run.conclusion(results)

    def sections(self, facts: dict[str, Any], predictions: pa.Table | None) -> list[Section]:
        return report.sections(facts)

    def card_metadata(self, facts: dict[str, Any]) -> CardMetadata:
        return report.card_metadata(facts)


TASK = DetectionTask()
