"""Detectors on a pretrained encoder: its windows, its weights and its own labels."""

import logging
from dataclasses import replace
from typing import Any

from transformers import AutoFeatureExtractor, PretrainedConfig

from modeling import EfficientAtFeatureExtractor, EfficientAtForAudioClassification, EncoderConfig
from modeling.modeling_encoder import EncoderForAudioClassification
from tasks.detection.data import DetectionData
from tasks.detection.embedded import embedded_side, embedded_training
from tasks.detection.input_scaling import scale_embeddings
from tasks.detection.settings import DetectionTaskSettings, EncoderSettings
from training.encoders import Encoder, encoder_once
from training.task import Run

logger = logging.getLogger(__name__)


def encoder_of(settings: EncoderSettings) -> Encoder:
    if not settings.encoder:
        raise ValueError(
            f"encoder={settings.encoder}: model_type={EncoderConfig.model_type} needs an encoder. Add "
            '{"name": "efficientat_mn04_as"}.'
        )
    return encoder_once(settings.encoder["name"], settings.encoder.get("revision"))


def encoder_features(run: Run[DetectionTaskSettings]) -> EfficientAtFeatureExtractor:
    """Return the encoder's feature extractor; raises ValueError for settings that it cannot work with."""
    base, settings = run.arguments.model_name_or_path, run.settings
    if run.arguments.feature_config:
        raise ValueError(
            f"feature_config={run.arguments.feature_config}: an encoder has its own features. Remove the key."
        )
    for key in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(run.training, key):
            raise ValueError(f"{key}=true: embeddings are computed at full precision. Remove the key.")
    extractor = AutoFeatureExtractor.from_pretrained(base) if base else encoder_of(settings.encoder).extractor
    # An encoder only works at the rate of its training, so windows are not resampled for it.
    rate = settings.windows.sampling_rate
    if rate != extractor.sampling_rate:
        raise ValueError(
            f"sampling_rate={rate}: the encoder expects {extractor.sampling_rate} Hz. Set sampling_rate to this value."
        )
    return extractor


def encoder_model_settings(data: DetectionData, run: Run[DetectionTaskSettings]) -> dict[str, Any]:
    """Return the settings of a new model that follow from encoder, windows and batches; {} for a saved model."""
    settings = run.settings
    windows = {"window_seconds": settings.windows.clip_seconds, "hop_seconds": settings.scores.hop_seconds}
    if run.base_config is not None:  # a saved model keeps its settings
        if run.base_config.model_type != EncoderConfig.model_type:
            raise ValueError(
                f"model_type={EncoderConfig.model_type}: {run.arguments.model_name_or_path} is a saved "
                f"{run.base_config.model_type}. Use this model_type, or leave out model_name_or_path."
            )
        check_windows(run.base_config, windows)
        return {}
    encoder = encoder_of(settings.encoder).model
    config = encoder.config.to_diff_dict() | windows
    names: Any = encoder.config.label2id if isinstance(encoder, EfficientAtForAudioClassification) else {}
    known_targets = [name for name in data.target_names() if name in names]
    if known_targets:
        logger.info("the head is initialised from the encoder's scores of %s", ", ".join(known_targets))
    else:
        logger.info("the head is initialised at random: the encoder has no label of the target")
    # Balances the classes in the loss; without negatives the weight is 1.
    positive, strong, weak = settings.sampler.shares
    return {
        "encoder_config": config,
        "encoder_labels": sorted(names[name] for name in known_targets),
        "positive_weight": (strong + weak) / positive or 1.0,
    }


def check_windows(saved: PretrainedConfig, windows: dict[str, float]) -> None:
    """Raise ValueError if the windows differ from those of a saved model, whose encoder averages over a window."""
    for name, key in (("window_seconds", "clip_seconds"), ("hop_seconds", "hop_seconds")):
        saved_value = getattr(saved.encoder_config, name)
        if saved_value != windows[name]:
            raise ValueError(f"{key}={windows[name]:g}: the saved model has {saved_value:g}. Use its value.")


def initialise_head(model: EncoderForAudioClassification, data: DetectionData) -> None:
    """Load the encoder's weights into a new model, and scale the input of its head with some training windows."""
    encoder = encoder_of(data.encoder).model
    target = model.encoder if isinstance(encoder, EfficientAtForAudioClassification) else model.encoder.base_model
    target.load_state_dict(encoder.state_dict())
    scale_embeddings(model, data.train, data.extractor)


def cache_embeddings(data: DetectionData, model: EncoderForAudioClassification) -> DetectionData:
    """Return the data with the embeddings of all windows if the encoder is frozen, else unchanged."""
    if model.config.finetune != "none":
        return data
    augmentation = data.train.augmentation
    if augmentation is not None and augmentation.mixup_probability:
        raise ValueError(
            f"mixup_probability={augmentation.mixup_probability}: a frozen encoder embeds windows one by one. Set it "
            "to 0, or model_config.finetune to last_n."
        )
    train = embedded_training(data.train, data.encoder.encoder_views, model, data.extractor)
    sides = {name: embedded_side(side, model, data.extractor) for name, side in data.sides.items()}
    return replace(data, train=train, sides=sides)


def frozen_encoder(model: EncoderForAudioClassification, settings: EncoderSettings) -> EncoderForAudioClassification:
    """Return a frozen model with the original weights of its encoder."""
    if model.config.finetune == "none":
        return model
    encoder = encoder_of(settings).model
    # Only the encoder is used for embeddings; the head of this model stays untrained.
    config = EncoderConfig(encoder_config=model.config.encoder_config.to_dict())
    frozen = EncoderForAudioClassification(config)
    frozen.encoder.base_model.load_state_dict(encoder.base_model.state_dict())
    return frozen.eval()
