"""Pieces that the sequence models share: dilated convolution, norm, dropout, frame masks, heads and losses.

Everything between layers has shape (B, T, C): its memory is what convolutions call "channels last", so nothing is ever
transposed. A frame mask is (B, T, 1) bool, True where a frame is real, or None where all are.
"""

import logging
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.utils import ModelOutput

logger = logging.getLogger(__name__)

# B batch, T frames, C channels, F features


NORMS = ("weight", "layer", "none")
LOSSES = ("mse", "l1", "huber", "ccc", "gaussian")
POOLINGS = ("attention", "max", "mean")
IGNORE_LABEL = -100.0  # a label of this value is not scored; the Trainer pads labels and counts items by it
MAX_LOG_VARIANCE = 10.0  # either side of 0: a standard deviation between 0.7 % and 150 times the target's unit
CCC_EPSILON = 1e-8  # target units squared; keeps the concordance of two constant signals at 0 instead of 0 / 0
LONG_PADDING = 32  # frames; from here on oneDNN's fast weight gradient does not take a convolution's own padding


@dataclass
class SignalRegressionOutput(ModelOutput):
    """What a model that predicts a signal returns.

    Args:
        loss: scalar, when labels were given.
        predictions: (B, T, channels) in the target's unit; 0 in padding.
        log_variance: (B, T, channels), natural logarithm of the target's unit squared, with a Gaussian head.
        hidden_states: the backbone's input and the output of each block, (B, T, C) each, when asked for.
    """

    loss: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    log_variance: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


def frame_mask(attention_mask: torch.Tensor | None, frames: torch.Tensor) -> torch.Tensor | None:
    """A (B, T) mask of ints or bools as a (B, T, 1) bool one for `frames` (B, T, C); None when nothing is padding.

    Looking whether all frames are real is free on the CPU; elsewhere it would make the host wait for the device.
    """
    if attention_mask is None:
        return None
    if attention_mask.shape != frames.shape[:2]:
        raise ValueError(
            f"attention_mask.shape = {tuple(attention_mask.shape)} must be (B, T) = {tuple(frames.shape[:2])}, "
            "one number a frame of the input"
        )
    valid = attention_mask.bool()
    if valid.device.type == "cpu" and not torch.compiler.is_compiling() and valid.all():
        return None
    return valid.unsqueeze(-1)


def mask_frames(x: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """x (B, T, C) with zeros in padding, whatever stood there: a product would keep NaN and infinity."""
    return x if valid is None else x.masked_fill(~valid, 0.0)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """x, in float32 where it is in half precision: sums over many numbers need more digits than that has."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class DilatedConv1d(nn.Conv1d):
    """A dilated convolution over time, (B, T, C_in) -> (B, T, C_out), with zeros beyond both ends.

    The parameters are those of `nn.Conv1d`. It runs as a 2-D convolution of height 1, which reads the (B, T, C) layout
    as it is: on a CPU, forward and backward take 0.55 to 0.85 of conv1d's time (B 8, T 1024, C 64, dilations 1-128).

    Args:
        dilation: frames between two taps.
        causal: put all the padding before the first frame, so that no frame sees a later one.
        init_gain: what a new layer's outputs are multiplied with, beyond He's initialisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int,
        causal: bool,
        init_gain: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation, bias=bias)
        self.causal = causal
        self.init_gain = init_gain
        self.past: torch.Tensor | None = None  # the last `reach` inputs while a recording comes piece by piece
        self.reach = (kernel_size - 1) * dilation  # frames from the first tap to the last

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """Convolve x; `gain` multiplies the output, by way of the few weights rather than the many outputs."""
        weight, bias = self.weight, self.bias
        if gain != 1.0:
            weight, bias = weight * gain, None if bias is None else bias * gain
        (dilation,) = self.dilation
        padding = self.reach // 2
        if self.past is not None:
            x, padding = torch.cat([self.past, x], 1), 0
            self.past = x[:, x.shape[1] - self.reach :]
        elif self.causal:
            x, padding = F.pad(x, (0, 0, self.reach, 0)), 0
        frames = x.shape[1]
        if x.device.type == "cpu" and padding >= LONG_PADDING and frames % dilation == 0:
            # Every `dilation`-th frame is a row of an undilated image, without a copy: 0.85 of the time of the rest.
            image = x.unflatten(1, (frames // dilation, dilation)).permute(0, 3, 1, 2)
            taps = weight.unsqueeze(3)
            return F.conv2d(image, taps, bias, padding=(padding // dilation, 0)).permute(0, 2, 3, 1).flatten(1, 2)
        image = x.transpose(1, 2).unsqueeze(2)
        out = F.conv2d(image, weight.unsqueeze(2), bias, padding=(0, padding), dilation=(1, dilation))
        return out.squeeze(2).transpose(1, 2)


class NormedConv1d(nn.Module):
    """A dilated convolution with its norm, (B, T, C_in) -> (B, T, C_out).

    Args:
        norm: "weight" (the length of each output channel's filter is a parameter of its own), "layer" (over the
            channels of one frame, so that neither padding nor other frames matter) or "none".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int,
        causal: bool,
        norm: str,
        init_gain: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.conv = DilatedConv1d(in_channels, out_channels, kernel_size, dilation, causal, init_gain, bias)
        if norm == "weight":
            weight_norm(self.conv)
            self.conv.parametrizations.weight.init_gain = init_gain  # where `init_weights` finds it
        self.norm = nn.LayerNorm(out_channels) if norm == "layer" else None

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """Convolve and normalise x; `gain` (> 0) multiplies the output."""
        if self.norm is None:
            return self.conv(x, gain)
        norm = self.norm
        return F.layer_norm(self.conv(x), norm.normalized_shape, norm.weight * gain, norm.bias * gain, norm.eps)


def init_weights(module: nn.Module) -> None:
    """He's N(0, 2 / fan_in) for a dilated convolution, N(0, 1 / fan_in) for a linear map, each times the layer's
    `init_gain` if it has one, bias 0; for `_init_weights`.

    Values that were loaded stay: `transformers.initialization` leaves them alone. It visits only modules that own a
    parameter or buffer: of a weight-normed layer that is the list of its parametrization.
    """
    if isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
    elif isinstance(module, parametrize.ParametrizationList):
        length, direction = module.original0, module.original1
        init.normal_(direction, std=module.init_gain * math.sqrt(2 / direction[0].numel()))
        init.copy_(length, torch.norm_except_dim(direction, 2, 0))
    elif isinstance(module, DilatedConv1d) and not parametrize.is_parametrized(module, "weight"):
        init.normal_(module.weight, std=module.init_gain * math.sqrt(2 / module.weight[0].numel()))
    elif isinstance(module, nn.Linear):
        init.normal_(module.weight, std=getattr(module, "init_gain", 1.0) * math.sqrt(1 / module.in_features))
    if isinstance(module, nn.LayerNorm | DilatedConv1d | nn.Linear) and module.bias is not None:
        init.zeros_(module.bias)


class SignalHead(nn.Module):
    """One linear map a frame from the backbone's states to the mean, and to a log variance if asked for."""

    def __init__(self, num_channels: int, output_size: int, gaussian: bool) -> None:
        super().__init__()
        self.mean = nn.Linear(num_channels, output_size)
        self.log_variance = nn.Linear(num_channels, output_size) if gaussian else None

    def forward(self, states: torch.Tensor, valid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, T, C) -> mean and log variance, (B, T, channels) each; 0 in padding."""
        mean = mask_frames(self.mean(states), valid)
        if self.log_variance is None:
            return mean, None
        log_variance = self.log_variance(states).clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return mean, mask_frames(log_variance, valid)


def loss_weights(loss: str | dict[str, float]) -> dict[str, float]:
    """A loss by its name as a sum of one."""
    return {loss: 1.0} if isinstance(loss, str) else loss


def check_loss(loss: str | dict[str, float], gaussian_head: bool) -> None:
    """Refuse a loss that cannot be computed, in one line that says what can."""
    weights = loss_weights(loss)
    if not isinstance(weights, dict) or not weights or not set(weights) <= set(LOSSES):
        raise ValueError(f"loss={loss!r} must be one of {list(LOSSES)}, or weights of some of them by name")
    if not all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in weights.values()):
        raise ValueError(f"loss={loss!r}: weights must be finite numbers above 0; leave out what is not wanted")
    if "gaussian" in weights and not gaussian_head:
        raise ValueError(f"loss={loss!r} needs a predicted variance; set gaussian_head=True")


def signal_loss(
    predictions: torch.Tensor,
    labels: torch.Tensor,
    loss: str | dict[str, float],
    valid: torch.Tensor | None = None,
    log_variance: torch.Tensor | None = None,
    huber_delta: float = 1.0,
    num_items: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """The weighted sum of losses over the scored numbers, divided by how many there are.

    A number is scored when its label is not IGNORE_LABEL and its frame is not padding. Each part is a sum over scored
    numbers, the concordance (one number a trial and channel) counted once for every scored number of its trial. So
    with `num_items`, the count over all batches of a step, the parts of a split batch add up to the whole.

    Args:
        predictions, log_variance: (B, T, channels).
        labels: (B, T, channels), or (B, T) for one channel.
        valid: (B, T, 1) bool or None.
    """
    if labels.dim() == 2:
        labels = labels.unsqueeze(-1)
    if labels.shape != predictions.shape:
        raise ValueError(
            f"labels.shape = {tuple(labels.shape)} must be (B, T, channels) = {tuple(predictions.shape)}, "
            "or (B, T) where there is one channel"
        )
    scored = labels != IGNORE_LABEL
    if valid is not None:
        scored = scored & valid
    predictions = at_least_float32(predictions)
    labels = labels.to(predictions.dtype)
    # Where nothing is scored both are 0, so that neither the sums nor their gradients see those frames.
    predictions, labels = predictions.masked_fill(~scored, 0.0), labels.masked_fill(~scored, 0.0)

    total = predictions.new_zeros(())
    for name, weight in loss_weights(loss).items():
        if name == "mse":
            part = F.mse_loss(predictions, labels, reduction="sum")
        elif name == "l1":
            part = F.l1_loss(predictions, labels, reduction="sum")
        elif name == "huber":
            part = F.huber_loss(predictions, labels, reduction="sum", delta=huber_delta)
        elif name == "ccc":
            counts = scored.sum(1)
            part = ((1 - concordance(predictions, labels, scored)) * counts).sum()
        else:
            log_var = log_variance.to(predictions.dtype).masked_fill(~scored, 0.0)
            part = 0.5 * (log_var + (labels - predictions).square() * torch.exp(-log_var)).sum()
        total = total + weight * part
    count = scored.sum() if num_items is None else torch.as_tensor(num_items, device=total.device)
    return total / count.clamp_min(1)  # windows in which nothing is scored have no loss, rather than NaN


def concordance(predictions: torch.Tensor, labels: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """Lin's concordance of each trial and channel over its scored frames, (B, T, channels) -> (B, channels).

    2 cov / (var + var + (difference of means)^2), which is 0 where a signal is constant or nothing is scored.
    """
    counts = scored.sum(1, keepdim=True).clamp_min(1)
    mean_p = (predictions * scored).sum(1, keepdim=True) / counts
    mean_l = (labels * scored).sum(1, keepdim=True) / counts
    p, y = (predictions - mean_p) * scored, (labels - mean_l) * scored
    spread = ((p.square() + y.square()).sum(1, keepdim=True) / counts) + (mean_p - mean_l).square()
    return (2 * (p * y).sum(1, keepdim=True) / counts / spread.clamp_min(CCC_EPSILON)).squeeze(1)


def warn_if_receptive_field_exceeds(config: PreTrainedConfig, longest_frames: int) -> None:
    """Say once when a model sees further than the longest clip (in frames) goes: the outer taps only learn zeros."""
    if config.receptive_field > longest_frames:
        logger.warning_once(
            f"The receptive field of {config.receptive_field} frames ({config.receptive_field_seconds:.1f} s) exceeds "
            f"the longest clip ({longest_frames} frames, {longest_frames / config.frame_rate:.1f} s): weights at its "
            "ends meet nothing but padding. Take fewer or smaller blocks, a smaller kernel, or longer clips."
        )
