"""Models, feature extractors and configurations, known to transformers' Auto classes and shipped with their code.

Importing this package is enough for `AutoConfig`, `AutoModel` and `AutoModelForAudioClassification` to find them.
A model of a signal, or of the labels of a clip, is registered by its import here.
"""

from typing import Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForVideoClassification,
    AutoProcessor,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_efficientat import EfficientAtConfig
from .configuration_encoder import EncoderConfig
from .configuration_fusion import FusionConfig
from .configuration_tcn import TcnConfig
from .configuration_wavenet import WavenetConfig
from .feature_extraction_audio import AudioFeatureExtractor
from .feature_extraction_efficientat import EfficientAtFeatureExtractor
from .feature_extraction_fusion import FusionFeatureExtractor
from .modeling_classification import AudioClassificationModel
from .modeling_efficientat import EfficientAtForAudioClassification, EfficientAtModel
from .modeling_encoder import EncoderForAudioClassification
from .modeling_fusion import FusionForEmotion, FusionForRegression
from .modeling_signal import SignalRegressionModel
from .modeling_tcn import TcnForAudioClassification, TcnForSignalRegression, TcnModel
from .modeling_wavenet import WavenetForAudioClassification, WavenetForSignalRegression, WavenetModel
from .pipeline_emotion import EmotionPipeline
from .pipeline_signal import SignalPipeline
from .processing_fusion import FusionProcessor

# (configuration, model) of each model above that predicts a signal, or that names the sounds of a clip.
SIGNAL_MODELS = tuple((model.config_class, model) for model in SignalRegressionModel.__subclasses__())
CLASSIFICATION_MODELS = tuple((model.config_class, model) for model in AudioClassificationModel.__subclasses__())
SIGNAL_CONFIGS = tuple(dict.fromkeys(config for config, _ in SIGNAL_MODELS + CLASSIFICATION_MODELS))


def register_config(config_class: type[PreTrainedConfig], extractor_class: type[FeatureExtractionMixin]) -> None:
    """Make a configuration known, and the extractor that its models take."""
    AutoConfig.register(config_class.model_type, config_class)
    AutoFeatureExtractor.register(config_class, extractor_class)
    config_class.register_for_auto_class()


def register_model(auto_class: Any, model_class: type[PreTrainedModel]) -> None:
    """Let an Auto class find a model, here and from the code that is saved with it."""
    auto_class.register(model_class.config_class, model_class)
    model_class.register_for_auto_class(auto_class.__name__)


for config_class in SIGNAL_CONFIGS:
    register_config(config_class, AudioFeatureExtractor)
for _, model_class in SIGNAL_MODELS:
    register_model(AutoModel, model_class)
for _, model_class in CLASSIFICATION_MODELS:
    register_model(AutoModelForAudioClassification, model_class)

# A head on a pretrained encoder, whose features are the encoder's.
register_config(EncoderConfig, EfficientAtFeatureExtractor)
register_model(AutoModelForAudioClassification, EncoderForAudioClassification)
# Pretrained on the sounds of AudioSet, with an extractor of its own.
register_config(EfficientAtConfig, EfficientAtFeatureExtractor)
register_model(AutoModel, EfficientAtModel)
register_model(AutoModelForAudioClassification, EfficientAtForAudioClassification)

# Emotions of a clip: transformers has no class for what also reads; a processor holds features and tokenizer.
register_config(FusionConfig, FusionFeatureExtractor)
register_model(AutoModelForVideoClassification, FusionForEmotion)
register_model(AutoModel, FusionForRegression)
AutoProcessor.register(FusionConfig, FusionProcessor)

for shipped_class in (AudioFeatureExtractor, EfficientAtFeatureExtractor, FusionFeatureExtractor, FusionProcessor):
    shipped_class.register_for_auto_class()

# What `pipeline(...)` knows beside transformers' own, audio-classification for one: model, task, its Auto class.
PIPELINES = (
    (SignalRegressionModel, "audio-to-signal", SignalPipeline, AutoModel, "audio"),
    (FusionForEmotion, "clip-to-emotion", EmotionPipeline, AutoModelForVideoClassification, "multimodal"),
)
for _, name, pipeline_class, auto_class, kind in PIPELINES:
    PIPELINE_REGISTRY.register_pipeline(name, pipeline_class, pt_model=auto_class, type=kind)
