"""A toy model: one convolution over time, for signals (per frame) or for the labels of a clip.

One line in `modeling/__init__.py` registers it: `from .modeling_toy import ToyForAudioClassification, ...`. A saved
model contains a copy of this file, so it may import only from its own folder, and only by `from .file import Name`.
"""

# B batch, T frames, F features, C channels

import torch
import torch.nn.functional as F

from .configuration_toy import ToyConfig
from .layers import NormedConv1d, mask_frames
from .modeling_classification import AudioClassificationModel
from .modeling_signal import SignalBackbone, SignalRegressionModel


class ToyModel(SignalBackbone):
    """The backbone of both models: scaled features (B, T, F) to states (B, T, C)."""

    config_class = ToyConfig
    base_model_prefix = "toy"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        sizes = (config.input_size, config.num_channels, config.kernel_size)
        self.conv = NormedConv1d(*sizes, dilation=1, causal=config.causal, norm=config.norm)
        self.post_init()

    def layers_forward(
        self, x: torch.Tensor, valid: torch.Tensor | None, hidden_states: list[torch.Tensor] | None
    ) -> torch.Tensor:
        """Compute the states; they must be zero in padding, as x is."""
        x = F.dropout(F.relu(self.conv(x)), self.config.dropout, self.training)
        x = mask_frames(x, valid)
        if hidden_states is not None:
            hidden_states.append(x)
        return x


class ToyForSignalRegression(SignalRegressionModel):
    """Predict a signal, one value per frame and channel."""

    config_class = ToyConfig
    base_model_prefix = "toy"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config, ToyModel(config), config.num_channels)


class ToyForAudioClassification(AudioClassificationModel):
    """Predict the labels of a clip."""

    config_class = ToyConfig
    base_model_prefix = "toy"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config, ToyModel(config), config.num_channels)
