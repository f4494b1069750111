"""Temporal convolutional network (TCN) over a sequence of features, for signals or for labels of a clip."""

# B batch, T frames, F features, C channels

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_tcn import TcnConfig
from .layers import NormedConv1d, mask_frames
from .layers_dropout import Dropout
from .modeling_classification import AudioClassificationModel
from .modeling_signal import SignalBackbone, SignalRegressionModel


class TcnBlock(nn.Module):
    """Two dilated convolutions with a shortcut, (B, T, C_in) -> (B, T, C).

        x --+-- conv -> norm -> ReLU -> dropout -- conv -> norm -> ReLU -> dropout --(+)-- ReLU -- out
            |                                                                         |
            +------------------ 1x1 projection, if C_in differs from C ---------------+

    Both convolutions have dilation 2^i in block i, so the receptive field doubles from block to block at constant
    cost. They see equally far ahead and back, or only back in a causal model. The shortcut lets gradients pass a deep
    stack unchanged.

    Padding frames are zero between all layers, like the frames before and after a clip. The convolutions cannot tell
    them apart, so a clip has the same output alone and in a padded batch.
    """

    def __init__(self, config: TcnConfig, index: int) -> None:
        super().__init__()
        in_channels, channels = config.input_size if index == 0 else config.num_channels, config.num_channels
        shape = (config.kernel_size, 2**index, config.causal, config.norm)
        self.conv1 = NormedConv1d(in_channels, channels, *shape)
        # Blocks add non-negative numbers to non-negative numbers, so a new model's output would grow with its depth.
        self.conv2 = NormedConv1d(channels, channels, *shape, init_gain=1 / config.num_blocks)
        self.dropout = Dropout(config.dropout)
        self.projection = nn.Linear(in_channels, channels) if in_channels != channels else None
        self.is_first = index == 0

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """x (B, T, C_in), zero in padding; valid (B, T, 1) or None."""
        gain = self.dropout.gain(x)
        branch = self.dropout.relu_(self.conv1(x, gain), valid)
        branch = self.dropout.relu_(self.conv2(branch, gain), valid)
        # Only the first block needs the last ReLU: later shortcuts carry the output of a ReLU, and the sum of two
        # non-negative numbers is non-negative.
        if not self.is_first:
            return x + branch
        shortcut = x if self.projection is None else self.projection(x)
        return mask_frames(F.relu(shortcut + branch), valid)


class TcnModel(SignalBackbone):
    """The backbone: scaled features through a stack of `TcnBlock`s, (B, T, F) -> (B, T, C)."""

    config_class = TcnConfig
    base_model_prefix = "tcn"

    def __init__(self, config: TcnConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(TcnBlock(config, index) for index in range(config.num_blocks))
        self.post_init()

    def layers_forward(
        self, x: torch.Tensor, valid: torch.Tensor | None, hidden_states: list[torch.Tensor] | None
    ) -> torch.Tensor:
        """Pass x (B, T, F) through all blocks."""
        for block in self.blocks:
            x = block(x, valid)
            if hidden_states is not None:
                hidden_states.append(x)
        return x


class TcnForSignalRegression(SignalRegressionModel):
    """A TCN with a linear map per frame to the signal."""

    config_class = TcnConfig
    base_model_prefix = "tcn"

    def __init__(self, config: TcnConfig) -> None:
        super().__init__(config, TcnModel(config), config.num_channels)


class TcnForAudioClassification(AudioClassificationModel):
    """A TCN with a linear map per frame to labels, pooled over a clip."""

    config_class = TcnConfig
    base_model_prefix = "tcn"

    def __init__(self, config: TcnConfig) -> None:
        super().__init__(config, TcnModel(config), config.num_channels)
