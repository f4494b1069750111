"""Detectors that hear through a pretrained encoder: its windows, its weights, and its own labels."""

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
    """The encoder that a config names."""
    if not settings.encoder:
        raise ValueError(
            f"encoder={settings.encoder}: model_type {EncoderConfig.model_type} has no encoder. Add "
            '{"name": "efficientat_mn04_as"}.'
        )
    return encoder_once(settings.encoder["name"], settings.encoder.get("revision"))


def encoder_features(run: Run[DetectionTaskSettings]) -> EfficientAtFeatureExtractor:
    """The features of the encoder, which has to hear at the rate of the windows."""
    base, settings = run.arguments.model_name_or_path, run.settings
    if run.arguments.feature_config:
        raise ValueError(f"feature_config={run.arguments.feature_config}: the encoder has its own. Leave it out.")
    for key in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(run.training, key):
            raise ValueError(f"{key}=true: embeddings are stored at full precision, then rounded. Leave it out.")
    extractor = AutoFeatureExtractor.from_pretrained(base) if base else encoder_of(settings.encoder).extractor
    rate = settings.windows.sampling_rate
    if rate != extractor.sampling_rate:
        raise ValueError(f"sampling_rate={rate}: the encoder takes {extractor.sampling_rate} Hz. Set it to that.")
    return extractor


def encoder_model_settings(data: DetectionData, run: Run[DetectionTaskSettings]) -> dict[str, Any]:
    """Settings of a new model that follow from the encoder, the windows and the batches."""
    settings = run.settings
    windows = {"window_seconds": settings.windows.clip_seconds, "hop_seconds": settings.scores.hop_seconds}
    if run.base_config is not None:  # a saved model has its own
        if run.base_config.model_type != EncoderConfig.model_type:
            raise ValueError(
                f"model_type={EncoderConfig.model_type}: {run.arguments.model_name_or_path} is a saved "
                f"{run.base_config.model_type}. Set model_type to that, or leave out model_name_or_path."
            )
        check_windows(run.base_config, windows)
        return {}
    encoder = encoder_of(settings.encoder).model
    config = encoder.config.to_diff_dict() | windows
    names: Any = encoder.config.label2id if isinstance(encoder, EfficientAtForAudioClassification) else {}
    own = [name for name in data.target_names() if name in names]
    begins = (
        f"as the encoder scores {', '.join(own)}" if own else "from nothing: the encoder has no label of the target"
    )
    logger.info("the head starts %s", begins)
    positive, strong, weak = settings.sampler.shares
    return {
        "encoder_config": config,
        "encoder_labels": sorted(names[name] for name in own),
        "positive_weight": (strong + weak) / positive or 1.0,
    }


def check_windows(saved: PretrainedConfig, windows: dict[str, float]) -> None:
    """Refuse other windows than those of a saved model, whose encoder averages over a window."""
    for name, key in (("window_seconds", "clip_seconds"), ("hop_seconds", "hop_seconds")):
        before = getattr(saved.encoder_config, name)
        if before != windows[name]:
            raise ValueError(f"{key}={windows[name]:g}: the saved model has {before:g}. Set it to that.")


def initialise_head(model: EncoderForAudioClassification, data: DetectionData) -> None:
    """Give a new model its encoder's weights, and scale the input of the head by some training windows."""
    encoder = encoder_of(data.encoder).model
    target = model.encoder if isinstance(encoder, EfficientAtForAudioClassification) else model.encoder.base_model
    target.load_state_dict(encoder.state_dict())
    scale_embeddings(model, data.train, data.extractor)


def cached(data: DetectionData, model: EncoderForAudioClassification) -> DetectionData:
    """The same data, with the embeddings of all windows where the encoder is frozen."""
    if model.config.finetune != "none":
        return data
    augmentation = data.train.augmentation
    if augmentation is not None and augmentation.mixup_probability:
        raise ValueError(
            f"mixup_probability={augmentation.mixup_probability}: a frozen encoder embeds each window by itself. Set "
            "it to 0, or model_config.finetune to last_n."
        )
    train = embedded_training(data.train, data.encoder.encoder_views, model, data.extractor)
    sides = {name: embedded_side(side, model, data.extractor) for name, side in data.sides.items()}
    return replace(data, train=train, sides=sides)


def frozen_encoder(model: EncoderForAudioClassification, settings: EncoderSettings) -> EncoderForAudioClassification:
    """A model with the weights that its encoder came with."""
    if model.config.finetune == "none":
        return model
    encoder = encoder_of(settings).model
    config = EncoderConfig(encoder_config=model.config.encoder_config.to_dict())
    frozen = EncoderForAudioClassification(config)
    frozen.encoder.base_model.load_state_dict(encoder.base_model.state_dict())
    return frozen.eval()
