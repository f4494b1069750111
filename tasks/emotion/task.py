"""Predict the emotion and sentiment of an utterance from video, audio and text."""

import argparse
import contextlib
import inspect
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from torchvision.models.video import R3D_18_Weights
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)

from modeling import FusionConfig, FusionFeatureExtractor, FusionForEmotion, FusionProcessor
from modeling.feature_extraction_audio import AudioFeatureExtractor
from reporting.card import CardMetadata
from reporting.sections import Section
from system.text import reason_of
from tasks.emotion import report, study
from tasks.emotion import results as scores_of_run
from tasks.emotion.data import COLUMNS, SIDES, EmotionData, prepare
from tasks.emotion.evaluate import evaluate
from tasks.emotion.items import HEADS, cache_features
from tasks.emotion.predict import SUFFIXES, check_prediction, predict_clips
from tasks.emotion.records import EmotionDataRecord, EmotionTrainingRecord
from tasks.emotion.settings import CLASS_WEIGHTS, EmotionTaskSettings
from tasks.emotion.timeline import plot_emotions
from training.build import check_fit
from training.collators import PaddingCollator
from training.command_line import unknown_key
from training.fusion_trainer import FusionTrainer, order_of_training
from training.samplers import LengthGroupedSampler, ShardedSampler
from training.streaming import shards_of
from training.task import Evaluation, Predicted, Run, Task

logger = logging.getLogger(__name__)


class EmotionTask(Task[EmotionTaskSettings, EmotionData]):
    name = "emotion"
    settings = EmotionTaskSettings
    columns = COLUMNS
    auto_model = AutoModelForVideoClassification
    model_configs = (FusionConfig,)
    auto_extractor = AutoProcessor
    trainer = FusionTrainer
    suffixes = SUFFIXES
    output_suffix = ".json"
    prediction_options = ("text", "utterances")
    simple_baseline = "tfidf"
    study = study.TABLES
    data_record = EmotionDataRecord
    training_record = EmotionTrainingRecord

    def features(self, run: Run[EmotionTaskSettings]) -> FusionProcessor:
        """Return the processor of the model to fine-tune, or a new one."""
        arguments, name = run.arguments, run.arguments.model_name_or_path
        if name:
            processor = AutoProcessor.from_pretrained(name)
            check_fit(processor.feature_extractor.to_dict(), arguments.feature_config, name)
            return processor
        # Check the keys here: FusionFeatureExtractor accepts any keyword, so a typo would have no effect.
        valid_keys = set(inspect.signature(FusionFeatureExtractor).parameters) | set(
            inspect.signature(AudioFeatureExtractor).parameters
        )
        for key in arguments.feature_config:
            if key not in valid_keys:
                suggestions = {f"feature_config.{valid}" for valid in valid_keys}
                raise ValueError(unknown_key(f"feature_config.{key}", suggestions))
        text_model = run.settings.encoders.text_model
        with name_setting("text_model", text_model):
            tokenizer = AutoTokenizer.from_pretrained(text_model)
        return FusionProcessor(FusionFeatureExtractor(**arguments.feature_config), tokenizer)

    def prepare(
        self,
        rows: datasets.Dataset,
        extractor: FusionProcessor,
        run: Run[EmotionTaskSettings],
        saved: dict[str, Any] | None = None,
    ) -> EmotionData:
        return prepare(rows, extractor, run, saved)

    def model_settings(
        self, data: EmotionData, extractor: FusionProcessor, run: Run[EmotionTaskSettings]
    ) -> dict[str, Any]:
        """Return the model settings that follow from the data and the encoders."""
        settings: dict[str, Any] = {f"{head}_names": data.names[head] for head in HEADS}
        settings["num_mel_bins"] = extractor.feature_extractor.num_mel_bins
        base, power = run.arguments.model_name_or_path, CLASS_WEIGHTS[data.settings.class_weights]
        # None resets the weights of a saved model, which belong to the data that it was trained on.
        if power or base:
            settings |= {f"{head}_weights": class_weights(data, head, power) if power else None for head in HEADS}
        if "text" in data.train.modalities:
            config: Any
            if base:
                config = cast(FusionConfig, run.base_config).text_config
            else:
                with name_setting("text_model", data.encoders.text_model):
                    config = AutoConfig.from_pretrained(data.encoders.text_model)
            # Not every text encoder has a limit, for example with relative positions.
            limit = getattr(config, "max_position_embeddings", data.encoders.max_text_tokens)
            if data.encoders.max_text_tokens > limit:
                raise ValueError(
                    f"max_text_tokens={data.encoders.max_text_tokens}: the text encoder has {limit} positions. Give "
                    f"{limit} or less."
                )
            if not base:
                settings["text_config"] = config.to_dict()
        return settings

    def initialise(self, model: FusionForEmotion, data: EmotionData, new: bool, resumed: bool) -> None:
        """Load pretrained encoder weights into a new model."""
        branches = model.fusion.branches
        if new and "text" in branches and has_weights(data.encoders.text_model):
            with name_setting("text_model", data.encoders.text_model):
                weights = AutoModel.from_pretrained(data.encoders.text_model).state_dict()
            encoder = branches["text"].get_submodule("encoder")
            # Skip weights without a counterpart, for example the pooler if text_pooling="mean" dropped it. A weight
            # that is missing is still an error.
            names = encoder.state_dict().keys()
            encoder.load_state_dict({key: value for key, value in weights.items() if key in names})
        elif new and "text" in branches:
            logger.warning(
                "text_model=%s: no weights in this folder, so the text encoder starts from random weights",
                data.encoders.text_model,
            )
        if new and "video" in branches and model.config.video_encoder == "r3d_18":
            load_video_weights(model, data.encoders.video_weights)
        frozen = {name: branch for name, branch in branches.items() if branch.frozen}
        if frozen:
            logger.info("Frozen encoders: %s", ", ".join(frozen))

    def cache(self, data: EmotionData, model: FusionForEmotion) -> EmotionData:
        """Encode every utterance once with the frozen encoders, if `cache_features` is set."""
        if not data.encoders.cache_features:
            return data
        if not any(branch.frozen for branch in model.fusion.branches.values()):
            raise ValueError("cache_features=true: no encoder is frozen, so nothing can be cached. Remove the key.")
        cached = {side: replace(data.sides[side], cached=cache_features(data.sides[side], model)) for side in SIDES}
        return replace(data, sides=data.sides | cached)

    def collator(self, extractor: FusionProcessor, run: Run[EmotionTaskSettings]) -> PaddingCollator:
        return PaddingCollator(extractor.tokenizer.pad_token_id)

    def sampler(
        self, data: EmotionData, run: Run[EmotionTaskSettings]
    ) -> Callable[[int], LengthGroupedSampler | ShardedSampler]:
        return order_of_training(data.lengths, run, shards_of(data.train.rows))

    def trainer_settings(self, data: EmotionData, run: Run[EmotionTaskSettings]) -> dict[str, Any]:
        return {"learning_rates": data.settings.learning_rates, "streamed": run.arguments.streaming}

    def evaluate(self, trainer: FusionTrainer, data: EmotionData, side: str) -> Evaluation:
        return evaluate(trainer, data, side)

    def about_training(self, trainer: FusionTrainer, data: EmotionData) -> dict[str, Any]:
        return {
            "trainable": trainer.model.part_sizes(),
            "undecodable": trainer.undecodable,
            "encoders": data.encoders,
            **asdict(data.settings),
        }

    def example_input(self, model: dict[str, Any]) -> list[str]:
        return ["--text", "You came!"] if model["modalities"] == ["text"] else super().example_input(model)

    def check_prediction(
        self, config: PreTrainedConfig | None, files: Sequence[Path], arguments: argparse.Namespace
    ) -> None:
        super().check_prediction(config, files, arguments)
        check_prediction(cast(FusionConfig, config), files, arguments)

    def predict(
        self, model: FusionForEmotion, extractor: FusionProcessor, files: Sequence[Path], arguments: argparse.Namespace
    ) -> Predicted:
        return predict_clips(model, extractor, files, arguments)

    def plot_predictions(self, predictions: Sequence[Any]) -> Figure:
        return plot_emotions(predictions)

    def results_table(self, results: dict[str, Any]) -> str:
        return scores_of_run.results_table(results)

    def conclusion(self, results: dict[str, Any]) -> str:
        return scores_of_run.conclusion(results)

    def sections(self, facts: dict[str, Any], predictions: pa.Table | None) -> list[Section]:
        return report.sections(facts)

    def card_metadata(self, facts: dict[str, Any]) -> CardMetadata:
        return report.card_metadata(facts)


@contextlib.contextmanager
def name_setting(key: str, value: str) -> Iterator[None]:
    """Turn an error while loading weights into a ValueError that names the setting."""
    try:
        yield
    # The errors of the Hub client, of damaged files and of state dicts that do not fit.
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{key}={value!r}: could not be loaded ({reason_of(error)}). Give a Hub name (needs network access once) "
            "or a local path."
        ) from error


def class_weights(data: EmotionData, head: str, power: float) -> list[float]:
    """Return (1 / training frequency) ** power per class, scaled to a mean of 1 over training utterances."""
    counts = np.bincount(data.train.rows[head], minlength=len(data.names[head]))
    # A class without training rows gets weight 0: it never occurs in the training loss.
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).tolist()


def has_weights(name: str) -> bool:
    """Return whether an encoder comes with weights. Hub models always do."""
    folder = Path(name)
    return not folder.is_dir() or any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def load_video_weights(model: FusionForEmotion, source: str) -> None:
    """Load weights of r3d_18 from torchvision (`kinetics`) or from a file, unless `source` is `none`."""
    if source == "none":
        if model.config.freeze_video:
            logger.warning("video_weights=none with freeze_video=true: the video encoder keeps its random weights")
        return
    with name_setting("video_weights", source):
        if source == "kinetics":
            weights = R3D_18_Weights.KINETICS400_V1.get_state_dict(progress=False, check_hash=True)
        else:
            # weights_only, because a pickle from elsewhere could run code.
            weights = torch.load(source, map_location="cpu", weights_only=True)
        model.load_video_weights(weights)


TASK = EmotionTask()
