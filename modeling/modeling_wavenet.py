"""WaveNet over a sequence of features, for signals or for labels of a clip. Sees later frames unless it is causal."""

# B batch, T frames, F features, C residual channels, S skip channels

import math

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_wavenet import WavenetConfig
from .layers import NormedConv1d, mask_frames
from .layers_dropout import Dropout
from .modeling_classification import AudioClassificationModel
from .modeling_signal import SignalBackbone, SignalRegressionModel

GATE_RMS = 0.5  # RMS of tanh * sigmoid for the outputs of a new convolution
HALF_POWER = math.sqrt(0.5)  # keeps the variance of a sum of two terms with equal variance


class WavenetLayer(nn.Module):
    """A gated dilated convolution with a shortcut and a skip output, (B, T, C) -> (B, T, C) and (B, T, S).

            +---------------------------- shortcut ----------------------------+
            |                                                                  |
        x --+-- conv --+-- tanh ------(*)-- dropout --+-- 1x1 residual --(+)-- / sqrt(2) -- out
                       |               |              |
                       +-- sigmoid ----+              +-- 1x1 skip -- to the sum of all layers

    Filter and gate are the halves of one convolution with 2C outputs. The last layer has no residual, because nothing
    would read it. Padding frames are zero at the input of every convolution, like the frames before and after a clip.
    """

    def __init__(self, config: WavenetConfig, dilation: int, is_last: bool) -> None:
        super().__init__()
        channels = config.residual_channels
        self.gates = NormedConv1d(
            channels, 2 * channels, config.kernel_size, dilation, config.causal, config.norm, bias=config.use_bias
        )
        self.dropout = Dropout(config.dropout_rate)
        self.residual = None if is_last else nn.Linear(channels, channels, bias=config.use_bias)
        self.skip = nn.Linear(channels, config.skip_channels, bias=config.use_bias)
        for projection in (self.residual, self.skip):
            if projection is not None:
                projection.init_gain = 1 / GATE_RMS

    def forward(
        self, x: torch.Tensor, skips: torch.Tensor | None, valid: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, T, C), zero in padding, and the sum of skips so far (B, T, S); valid (B, T, 1) or None."""
        out = self.dropout.gated_(self.gates(x))
        # Add in place: the backward pass does not need the partial sums.
        skips = self.skip(out) if skips is None else skips.add_(self.skip(out))
        if self.residual is None:
            return x, skips
        # Scaling the weights is cheaper than scaling the output.
        bias = self.residual.bias
        scaled = F.linear(out, self.residual.weight * HALF_POWER, None if bias is None else bias * HALF_POWER)
        return mask_frames(scaled.add_(x, alpha=HALF_POWER), valid), skips


class WavenetModel(SignalBackbone):
    """The backbone: features -> 1x1 -> stacks of `WavenetLayer`s -> sum of skips -> ReLU -> 1x1 -> ReLU, (B, T, S).

    The head of a model on top is the last 1x1.
    """

    config_class = WavenetConfig
    base_model_prefix = "wavenet"

    def __init__(self, config: WavenetConfig) -> None:
        super().__init__(config)
        dilations = config.dilations
        self.input = nn.Linear(config.input_channels, config.residual_channels, bias=config.use_bias)
        last = len(dilations) - 1
        self.layers = nn.ModuleList(WavenetLayer(config, d, is_last=i == last) for i, d in enumerate(dilations))
        self.output = nn.Linear(config.skip_channels, config.skip_channels, bias=config.use_bias)
        self.output.init_gain = math.sqrt(2)  # a ReLU follows
        self.skip_gain = 1 / math.sqrt(len(dilations))  # keeps the variance of the sum
        self.post_init()

    def layers_forward(
        self, x: torch.Tensor, valid: torch.Tensor | None, hidden_states: list[torch.Tensor] | None
    ) -> torch.Tensor:
        """Pass x (B, T, F) through all layers to states (B, T, S), which are not zero in padding."""
        x, skips = mask_frames(self.input(x), valid), None
        for layer in self.layers:
            x, skips = layer(x, skips, valid)
            if hidden_states is not None:
                hidden_states.append(x)
        # The gain commutes with the ReLU. Scaling the weights is cheaper than scaling the sums.
        return F.linear(skips.relu_(), self.output.weight * self.skip_gain, self.output.bias).relu_()


class WavenetForSignalRegression(SignalRegressionModel):
    """A WaveNet with a linear map per frame to the signal."""

    config_class = WavenetConfig
    base_model_prefix = "wavenet"

    def __init__(self, config: WavenetConfig) -> None:
        super().__init__(config, WavenetModel(config), config.skip_channels)


class WavenetForAudioClassification(AudioClassificationModel):
    """A WaveNet with a linear map per frame to labels, pooled over a clip."""

    config_class = WavenetConfig
    base_model_prefix = "wavenet"

    def __init__(self, config: WavenetConfig) -> None:
        super().__init__(config, WavenetModel(config), config.skip_channels)
