"""Models, feature extractors and configurations, known to transformers' Auto classes and shipped with their code.

Importing this package is enough for `AutoConfig`, `AutoModel` and `AutoModelForAudioClassification` to find them.
A model of a signal, or of the labels of a clip, is registered by its import here.
"""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForVideoClassification,
    AutoProcessor,
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

for config_class in SIGNAL_CONFIGS:
    AutoConfig.register(config_class.model_type, config_class)
    AutoFeatureExtractor.register(config_class, AudioFeatureExtractor)
    config_class.register_for_auto_class()

for config_class, model_class in SIGNAL_MODELS:
    AutoModel.register(config_class, model_class)
    model_class.register_for_auto_class("AutoModel")

for config_class, model_class in CLASSIFICATION_MODELS:
    AutoModelForAudioClassification.register(config_class, model_class)
    model_class.register_for_auto_class("AutoModelForAudioClassification")

# A head on a pretrained encoder, whose features are the encoder's.
AutoConfig.register(EncoderConfig.model_type, EncoderConfig)
AutoModelForAudioClassification.register(EncoderConfig, EncoderForAudioClassification)
AutoFeatureExtractor.register(EncoderConfig, EfficientAtFeatureExtractor)
EncoderConfig.register_for_auto_class()
EncoderForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
# Pretrained on the sounds of AudioSet, with an extractor of its own.
AutoConfig.register(EfficientAtConfig.model_type, EfficientAtConfig)
AutoModel.register(EfficientAtConfig, EfficientAtModel)
AutoModelForAudioClassification.register(EfficientAtConfig, EfficientAtForAudioClassification)
AutoFeatureExtractor.register(EfficientAtConfig, EfficientAtFeatureExtractor)
EfficientAtConfig.register_for_auto_class()
EfficientAtModel.register_for_auto_class("AutoModel")
EfficientAtForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
EfficientAtFeatureExtractor.register_for_auto_class()

# Emotions of a clip: transformers has no class for what also reads; a processor holds features and tokenizer.
AutoConfig.register(FusionConfig.model_type, FusionConfig)
AutoModelForVideoClassification.register(FusionConfig, FusionForEmotion)
AutoModel.register(FusionConfig, FusionForRegression)
AutoFeatureExtractor.register(FusionConfig, FusionFeatureExtractor)
AutoProcessor.register(FusionConfig, FusionProcessor)
FusionConfig.register_for_auto_class()
FusionForEmotion.register_for_auto_class("AutoModelForVideoClassification")
FusionForRegression.register_for_auto_class("AutoModel")
FusionFeatureExtractor.register_for_auto_class()
FusionProcessor.register_for_auto_class()

AudioFeatureExtractor.register_for_auto_class()

# What `pipeline(...)` knows beside transformers' own, audio-classification for one: model, task, its Auto class.
PIPELINES = (
    (SignalRegressionModel, "audio-to-signal", SignalPipeline, AutoModel, "audio"),
    (FusionForEmotion, "clip-to-emotion", EmotionPipeline, AutoModelForVideoClassification, "multimodal"),
)
for _, name, pipeline_class, auto_class, kind in PIPELINES:
    PIPELINE_REGISTRY.register_pipeline(name, pipeline_class, pt_model=auto_class, type=kind)
