"""Models, feature extractors and configurations, known to transformers' Auto classes and shipped with their code.

Importing this package is enough for `AutoConfig`, `AutoModel` and `AutoModelForAudioClassification` to find them.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .configuration_tcn import TcnConfig
from .configuration_wavenet import WavenetConfig
from .feature_extraction_audio import AudioFeatureExtractor
from .modeling_tcn import TcnForAudioClassification, TcnForSignalRegression, TcnModel
from .modeling_wavenet import WavenetForAudioClassification, WavenetForSignalRegression, WavenetModel

# What predicts a signal frame by frame, and what names the sounds of a clip; tests run over all.
SIGNAL_MODELS = ((TcnConfig, TcnForSignalRegression), (WavenetConfig, WavenetForSignalRegression))
CLASSIFICATION_MODELS = ((TcnConfig, TcnForAudioClassification), (WavenetConfig, WavenetForAudioClassification))

for config_class, model_class in SIGNAL_MODELS:
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
    AutoFeatureExtractor.register(config_class, AudioFeatureExtractor)
    config_class.register_for_auto_class()
    model_class.register_for_auto_class("AutoModel")

for config_class, model_class in CLASSIFICATION_MODELS:
    AutoModelForAudioClassification.register(config_class, model_class)
    model_class.register_for_auto_class("AutoModelForAudioClassification")

AudioFeatureExtractor.register_for_auto_class()

__all__ = [
    "AudioFeatureExtractor",
    "CLASSIFICATION_MODELS",
    "SIGNAL_MODELS",
    "TcnConfig",
    "TcnForAudioClassification",
    "TcnForSignalRegression",
    "TcnModel",
    "WavenetConfig",
    "WavenetForAudioClassification",
    "WavenetForSignalRegression",
    "WavenetModel",
]
