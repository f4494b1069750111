"""Layers and losses shared by the sequence models: dilated convolution, norm, frame masks, heads.

Tensors between layers have shape (B, T, C). This is the memory layout that convolutions call "channels last", so no
layer has to transpose its input. A frame mask is (B, T, 1) bool, True for a real frame, or None if all are real.
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
IGNORE_LABEL = -100.0  # labels with this value are not scored; the Trainer pads labels with it
# Limit of |log variance|: the standard deviation stays between 0.7 % and 150 times the target's unit.
MAX_LOG_VARIANCE = 10.0
# Squared target units. Makes the concordance of two constant signals 0 instead of 0 / 0.
CCC_EPSILON = 1e-8
# Frames. From this padding on, oneDNN's fast weight gradient does not support a convolution's own padding.
LONG_PADDING = 32


@dataclass
class SignalRegressionOutput(ModelOutput):
    """Output of a model that predicts a signal.

    Args:
        loss: scalar, if labels were given.
        predictions: (B, T, channels) in the target's unit; 0 in padding.
        log_variance: (B, T, channels), natural log of the variance in squared target units, with a Gaussian head.
        hidden_states: the backbone's input and the output of each block, (B, T, C) each, on request.
    """

    loss: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    log_variance: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


def frame_mask(attention_mask: torch.Tensor | None, frames: torch.Tensor) -> torch.Tensor | None:
    """Convert a (B, T) mask of ints or bools to (B, T, 1) bool for `frames` (B, T, C). Return None without padding."""
    if attention_mask is None:
        return None
    if attention_mask.shape != frames.shape[:2]:
        raise ValueError(
            f"attention_mask.shape={tuple(attention_mask.shape)}: must be (B, T) = {tuple(frames.shape[:2])}. Give "
            "one number per frame of the input."
        )
    valid = attention_mask.bool()
    # On other devices, `all()` would make the host wait. Under torch.compile it would break the graph.
    if valid.device.type == "cpu" and not torch.compiler.is_compiling() and valid.all():
        return None
    return valid.unsqueeze(-1)


def mask_frames(x: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Set padding frames of x (B, T, C) to zero."""
    # Multiplying by the mask would keep NaN and infinity.
    return x if valid is None else x.masked_fill(~valid, 0.0)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Convert half precision to float32, because sums over many numbers need more digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class DilatedConv1d(nn.Conv1d):
    """A dilated convolution over time, (B, T, C_in) -> (B, T, C_out), with zeros beyond both ends.

    The parameters are those of `nn.Conv1d`. It runs as a 2-D convolution of height 1, which reads the (B, T, C) layout
    without a copy: on a CPU, forward and backward take 0.55 to 0.85 of conv1d's time (B 8, T 1024, C 64, dilations
    1-128).

    Args:
        dilation: frames between two taps.
        causal: put all padding before the first frame, so that no frame sees a later one.
        init_gain: factor on He's initialization.
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
        # The last `reach` inputs, set only while `SignalRegressionModel.step` predicts a recording piece by piece.
        self.past: torch.Tensor | None = None
        self.reach = (kernel_size - 1) * dilation  # frames from the first tap to the last

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """Convolve x and multiply the output by `gain`."""
        weight, bias = self.weight, self.bias
        # Scaling the weights is cheaper than scaling the output: there are far fewer of them.
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
            # View every `dilation`-th frame as a row of an image, without a copy, and convolve without dilation. This
            # takes 0.85 of the time of the general case below.
            image = x.unflatten(1, (frames // dilation, dilation)).permute(0, 3, 1, 2)
            taps = weight.unsqueeze(3)
            return F.conv2d(image, taps, bias, padding=(padding // dilation, 0)).permute(0, 2, 3, 1).flatten(1, 2)
        image = x.transpose(1, 2).unsqueeze(2)
        out = F.conv2d(image, weight.unsqueeze(2), bias, padding=(0, padding), dilation=(1, dilation))
        return out.squeeze(2).transpose(1, 2)


class NormedConv1d(nn.Module):
    """A dilated convolution with its norm, (B, T, C_in) -> (B, T, C_out).

    Args:
        norm: "weight" (weight normalization), "layer" (over the channels of one frame, so that padding and other
            frames have no influence) or "none".
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
            # `init_weights` visits the parametrization, not the convolution.
            self.conv.parametrizations.weight.init_gain = init_gain
        self.norm = nn.LayerNorm(out_channels) if norm == "layer" else None

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """Convolve and normalize x; `gain` (> 0) multiplies the output."""
        if self.norm is None:
            return self.conv(x, gain)
        norm = self.norm
        return F.layer_norm(self.conv(x), norm.normalized_shape, norm.weight * gain, norm.bias * gain, norm.eps)


def init_weights(module: nn.Module) -> None:
    """Initialize one module, for `_init_weights`.

    Dilated convolutions get He's N(0, 2 / fan_in), linear layers N(0, 1 / fan_in), both times the layer's `init_gain`
    if it has one, and biases 0. `transformers.initialization` skips weights that were loaded.
    """
    # transformers visits only modules that own a parameter or buffer. For a weight-normed layer that is the
    # ParametrizationList, not the convolution.
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
    """A linear map per frame from the backbone's states to the mean, and to a log variance on request."""

    def __init__(self, num_channels: int, output_size: int, gaussian: bool) -> None:
        super().__init__()
        self.mean = nn.Linear(num_channels, output_size)
        self.log_variance = nn.Linear(num_channels, output_size) if gaussian else None

    def forward(self, states: torch.Tensor, valid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, T, C) -> mean and log variance, (B, T, channels) each; 0 in padding."""
        mean = mask_frames(self.mean(states), valid)
        if self.log_variance is None:
            return mean, None
        # Without limits, a perfect fit would drive the variance to 0 and the loss to minus infinity.
        log_variance = self.log_variance(states).clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return mean, mask_frames(log_variance, valid)


def loss_weights(loss: str | dict[str, float]) -> dict[str, float]:
    """Return the losses and their weights; a single name has weight 1."""
    return {loss: 1.0} if isinstance(loss, str) else loss


def check_loss(loss: str | dict[str, float], gaussian_head: bool) -> None:
    """Raise ValueError for a loss that cannot be computed."""
    weights = loss_weights(loss)
    if not isinstance(weights, dict) or not weights or not set(weights) <= set(LOSSES):
        raise ValueError(f"loss={loss!r}: unknown. Give one of {', '.join(LOSSES)}, or a dict of names and weights.")
    if not all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in weights.values()):
        raise ValueError(f"loss={loss!r}: weights must be finite numbers above 0. Leave out a loss to skip it.")
    if "gaussian" in weights and not gaussian_head:
        raise ValueError(f"loss={loss!r}: needs a predicted variance. Set gaussian_head=true.")


def signal_loss(
    predictions: torch.Tensor,
    labels: torch.Tensor,
    loss: str | dict[str, float],
    valid: torch.Tensor | None = None,
    log_variance: torch.Tensor | None = None,
    huber_delta: float = 1.0,
    num_items: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Return the weighted sum of losses over the scored values, divided by their number.

    A value is scored if its label is not IGNORE_LABEL and its frame is not padding. The concordance has one number per
    trial and channel; it is counted once for every scored value of its trial. With `num_items`, the number of scored
    values in all batches of one step, the losses of these batches therefore add up to the loss of the joint batch.

    Args:
        predictions, log_variance: (B, T, channels).
        labels: (B, T, channels), or (B, T) for one channel.
        valid: (B, T, 1) bool or None.
    """
    if labels.dim() == 2:
        labels = labels.unsqueeze(-1)
    if labels.shape != predictions.shape:
        raise ValueError(
            f"labels.shape={tuple(labels.shape)}: must be (B, T, channels) = {tuple(predictions.shape)}. Give (B, T) "
            "only for one channel."
        )
    scored = labels != IGNORE_LABEL
    if valid is not None:
        scored = scored & valid
    predictions = at_least_float32(predictions)
    labels = labels.to(predictions.dtype)
    # Zeros on both sides keep values that are not scored out of the sums and out of the gradients.
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
    return total / count.clamp_min(1)  # a batch without scored values has loss 0 instead of NaN


def concordance(predictions: torch.Tensor, labels: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """Return Lin's concordance of each trial and channel over its scored frames, (B, T, channels) -> (B, channels).

    2 cov / (var + var + (difference of means)^2), or 0 if a signal is constant or nothing is scored.
    """
    counts = scored.sum(1, keepdim=True).clamp_min(1)
    mean_p = (predictions * scored).sum(1, keepdim=True) / counts
    mean_l = (labels * scored).sum(1, keepdim=True) / counts
    p, y = (predictions - mean_p) * scored, (labels - mean_l) * scored
    spread = ((p.square() + y.square()).sum(1, keepdim=True) / counts) + (mean_p - mean_l).square()
    return (2 * (p * y).sum(1, keepdim=True) / counts / spread.clamp_min(CCC_EPSILON)).squeeze(1)


def warn_if_receptive_field_exceeds(config: PreTrainedConfig, longest_frames: int) -> None:
    """Warn once if the receptive field exceeds the longest clip (in frames)."""
    if config.receptive_field > longest_frames:
        logger.warning_once(
            f"The receptive field of {config.receptive_field} frames ({config.receptive_field_seconds:.1f} s) exceeds "
            f"the longest clip ({longest_frames} frames, {longest_frames / config.frame_rate:.1f} s). Its outer "
            "taps see only padding. Use fewer or smaller blocks, a smaller kernel, or longer clips."
        )
