"""Temporal convolutional network (TCN) that predicts a signal, frame by frame, from a sequence of features."""

# B batch, T frames, F features, C channels

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .configuration_tcn import TcnConfig
from .layers import (
    Dropout,
    NormedConv1d,
    SignalHead,
    SignalRegressionOutput,
    frame_mask,
    init_weights,
    mask_frames,
    remove_weight_norm,
    signal_loss,
)


class TcnBlock(nn.Module):
    """Two dilated convolutions beside a shortcut, (B, T, C_in) -> (B, T, C).

        x --+-- conv -> norm -> ReLU -> dropout -- conv -> norm -> ReLU -> dropout --(+)-- ReLU -- out
            |                                                                         |
            +------------------ 1x1 projection, where C_in differs from C ------------+

    Both convolutions have dilation 2^i in block i, so the field of view doubles from block to block while the cost of
    a block stays the same. They see as far ahead as back, or only back in a causal model. The shortcut lets gradients
    pass a deep stack unchanged. The last ReLU is computed in the first block only: from then on the shortcut carries
    an earlier ReLU's output, and the sum of two numbers that are not negative needs no clipping.

    Frames in padding are zero between all layers, as what lies beyond a clip's ends is: the convolutions cannot tell
    one from the other, so a clip has the same output alone and in a padded batch.
    """

    def __init__(self, config: TcnConfig, index: int) -> None:
        super().__init__()
        in_channels, channels = config.input_size if index == 0 else config.num_channels, config.num_channels
        shape = (config.kernel_size, 2**index, config.causal, config.norm)
        self.conv1 = NormedConv1d(in_channels, channels, *shape)
        # Blocks add what is not negative to what is not negative: a new model's sum would grow with its depth.
        self.conv2 = NormedConv1d(channels, channels, *shape, init_gain=1 / config.num_blocks)
        self.dropout = Dropout(config.dropout)
        self.projection = nn.Linear(in_channels, channels) if in_channels != channels else None
        self.is_first = index == 0

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """x (B, T, C_in), zero in padding; valid (B, T, 1) or None."""
        gain = self.dropout.gain(x)
        branch = self.dropout.relu_(self.conv1(x, gain), valid)
        branch = self.dropout.relu_(self.conv2(branch, gain), valid)
        if not self.is_first:
            return x + branch
        shortcut = x if self.projection is None else self.projection(x)
        return mask_frames(F.relu(shortcut + branch), valid)


class TcnPreTrainedModel(PreTrainedModel):
    """What all models on a TCN share: configuration, initialisation, scaling of the input, export."""

    config_class = TcnConfig
    base_model_prefix = "tcn"
    main_input_name = "input_features"

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module)
        if isinstance(module, TcnModel):
            init.zeros_(module.input_mean)
            init.ones_(module.input_std)

    def set_input_scaling(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Keep the training set's mean and standard deviation of each feature, (F,) each, with the weights.

        Inputs then come as they were extracted: the model subtracts the one and divides by the other.
        """
        backbone = self.base_model
        for name, given, buffer in (("mean", mean, backbone.input_mean), ("std", std, backbone.input_std)):
            given = torch.as_tensor(given, dtype=buffer.dtype)
            if given.shape != buffer.shape or not given.isfinite().all():
                raise ValueError(
                    f"input scaling: {name} of shape {tuple(given.shape)} must hold {len(buffer)} finite numbers, "
                    "one a feature"
                )
            if name == "std" and not (given > 0).all():
                raise ValueError(
                    f"input scaling: std is not above 0 for features {(given <= 0).nonzero().flatten().tolist()}; "
                    "give 1 for a feature that never changes"
                )
            buffer.copy_(given)

    def remove_weight_norm(self) -> None:
        """Turn weight-normed convolutions into plain ones with the same outputs, in place, for export."""
        remove_weight_norm(self)
        if self.config.norm == "weight":
            self.config.norm = "none"


class TcnModel(TcnPreTrainedModel):
    """The backbone: scaled features through a stack of `TcnBlock`s, (B, T, F) -> (B, T, C)."""

    def __init__(self, config: TcnConfig) -> None:
        super().__init__(config)
        self.register_buffer("input_mean", torch.zeros(config.input_size))
        self.register_buffer("input_std", torch.ones(config.input_size))
        self.blocks = nn.ModuleList(TcnBlock(config, index) for index in range(config.num_blocks))
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: object,
    ) -> BaseModelOutput:
        """Compute a state for each frame.

        Args:
            input_features: (B, T, F); what stands in padding has no influence, NaN and infinity included.
            attention_mask: (B, T) of ints or bools, 0 where a frame is padding; None when none is.
            output_hidden_states: return the scaled input and every block's output too.
        """
        if input_features.dim() != 3 or input_features.shape[-1] != self.config.input_size:
            raise ValueError(
                f"input_features.shape = {tuple(input_features.shape)} must be (B, T, F) with F = "
                f"config.input_size = {self.config.input_size}"
            )
        valid = frame_mask(attention_mask, input_features)
        x = mask_frames((input_features - self.input_mean) / self.input_std, valid)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states = (x,) if wanted else None
        for block in self.blocks:
            x = block(x, valid)
            if wanted:
                hidden_states = (*hidden_states, x)
        return BaseModelOutput(last_hidden_state=x, hidden_states=hidden_states)


class TcnForSignalRegression(TcnPreTrainedModel):
    """A TCN with a linear map a frame to the signal: skin conductance from sound, for one."""

    def __init__(self, config: TcnConfig) -> None:
        super().__init__(config)
        self.tcn = TcnModel(config)
        self.head = SignalHead(config.num_channels, config.output_size, config.gaussian_head)
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: object,
    ) -> SignalRegressionOutput:
        """Predict the signal at each frame.

        Args:
            input_features: (B, T, F); what stands in padding has no influence, NaN and infinity included.
            attention_mask: (B, T) of ints or bools, 0 where a frame is padding; None when none is.
            labels: (B, T) or (B, T, output_size) in the target's unit; IGNORE_LABEL (-100) is not scored.
            num_items_in_batch: scored numbers in all batches of one step, by which the Trainer asks to divide.
        """
        states = self.tcn(input_features, attention_mask, output_hidden_states)
        valid = frame_mask(attention_mask, input_features)
        predictions, log_variance = self.head(states.last_hidden_state, valid)
        loss = None
        if labels is not None:
            loss = signal_loss(
                predictions,
                labels,
                self.config.loss,
                valid,
                log_variance,
                self.config.huber_delta,
                num_items_in_batch,
            )
        return SignalRegressionOutput(loss, predictions, log_variance, states.hidden_states)
