"""Models, feature extractors and configurations, registered with transformers' Auto classes.

Import this package and `AutoConfig`, `AutoModel` and `AutoModelForAudioClassification` find them. Each saved model
carries its code to the Hub, so the files of this folder import only each other and installed packages.
Importing a new signal or classification model here registers it.
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

# (configuration, model) of each model imported above that predicts a signal or classifies a clip.
SIGNAL_MODELS = tuple((model.config_class, model) for model in SignalRegressionModel.__subclasses__())
CLASSIFICATION_MODELS = tuple((model.config_class, model) for model in AudioClassificationModel.__subclasses__())
SIGNAL_CONFIGS = tuple(dict.fromkeys(config for config, _ in SIGNAL_MODELS + CLASSIFICATION_MODELS))


def register_config(config_class: type[PreTrainedConfig], extractor_class: type[FeatureExtractionMixin]) -> None:
    """Register a configuration together with the feature extractor of its models."""
    AutoConfig.register(config_class.model_type, config_class)
    AutoFeatureExtractor.register(config_class, extractor_class)
    config_class.register_for_auto_class()


def register_model(auto_class: Any, model_class: type[PreTrainedModel]) -> None:
    """Register a model with an Auto class, here and in the code that is saved with the model."""
    auto_class.register(model_class.config_class, model_class)
    model_class.register_for_auto_class(auto_class.__name__)


for config_class in SIGNAL_CONFIGS:
    register_config(config_class, AudioFeatureExtractor)
for _, model_class in SIGNAL_MODELS:
    register_model(AutoModel, model_class)
for _, model_class in CLASSIFICATION_MODELS:
    register_model(AutoModelForAudioClassification, model_class)

# A head on a pretrained encoder uses the encoder's features.
register_config(EncoderConfig, EfficientAtFeatureExtractor)
register_model(AutoModelForAudioClassification, EncoderForAudioClassification)
# EfficientAT is pretrained on AudioSet and has its own feature extractor.
register_config(EfficientAtConfig, EfficientAtFeatureExtractor)
register_model(AutoModel, EfficientAtModel)
register_model(AutoModelForAudioClassification, EfficientAtForAudioClassification)

# transformers has no Auto class for text, video and audio together; the one for video classification is the closest.
# The processor bundles feature extractor and tokenizer.
register_config(FusionConfig, FusionFeatureExtractor)
register_model(AutoModelForVideoClassification, FusionForEmotion)
register_model(AutoModel, FusionForRegression)
AutoProcessor.register(FusionConfig, FusionProcessor)

for shipped_class in (AudioFeatureExtractor, EfficientAtFeatureExtractor, FusionFeatureExtractor, FusionProcessor):
    shipped_class.register_for_auto_class()

# Custom tasks for `pipeline(...)`: base model, task, pipeline, Auto class, input type. Clip classifiers use
# transformers' own audio-classification pipeline.
PIPELINES = (
    (SignalRegressionModel, "audio-to-signal", SignalPipeline, AutoModel, "audio"),
    (FusionForEmotion, "clip-to-emotion", EmotionPipeline, AutoModelForVideoClassification, "multimodal"),
)
for _, task, pipeline_class, auto_class, input_type in PIPELINES:
    PIPELINE_REGISTRY.register_pipeline(task, pipeline_class, pt_model=auto_class, type=input_type)
