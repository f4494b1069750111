"""Models, feature extractors and configurations, known to transformers' Auto classes and shipped with their code.

Importing this package is enough for `AutoConfig` and `AutoModel` to find them.
"""

from transformers import AutoConfig, AutoModel

from .configuration_tcn import TcnConfig
from .configuration_wavenet import WavenetConfig
from .feature_extraction_audio import AudioFeatureExtractor
from .modeling_tcn import TcnForSignalRegression, TcnModel
from .modeling_wavenet import WavenetForSignalRegression, WavenetModel

# What predicts a signal frame by frame; tests run over all.
SIGNAL_MODELS = ((TcnConfig, TcnForSignalRegression), (WavenetConfig, WavenetForSignalRegression))

for config_class, model_class in SIGNAL_MODELS:
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
    config_class.register_for_auto_class()
    model_class.register_for_auto_class("AutoModel")

AudioFeatureExtractor.register_for_auto_class()

__all__ = [
    "AudioFeatureExtractor",
    "SIGNAL_MODELS",
    "TcnConfig",
    "TcnForSignalRegression",
    "TcnModel",
    "WavenetConfig",
    "WavenetForSignalRegression",
    "WavenetModel",
]
