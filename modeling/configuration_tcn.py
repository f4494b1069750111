"""Configuration of the temporal convolutional network (TCN)."""

import math

from transformers import PreTrainedConfig

from .layers import NORMS, check_loss


class TcnConfig(PreTrainedConfig):
    """What a TCN is made of and how it is trained; block i (from 0) has dilation 2^i.

    Args:
        input_size: features a frame (F).
        output_size: predicted channels a frame.
        num_blocks: residual blocks of two convolutions each.
        num_channels: channels of every block (C).
        kernel_size: taps of every convolution; odd, so that a frame has as much context before as after it.
        dropout: probability in [0, 1) that a number after a ReLU is set to zero in training. On the CPU it is realised
            in steps of 1/256 (0.1 as 26/256), and the rest is scaled by what was realised.
        causal: True sees the present and the past only; False (the default) sees both sides.
        norm: "weight", "layer" (over the channels of one frame) or "none".
        loss: "mse", "l1", "huber", "ccc" (1 - concordance a trial), "gaussian" (needs `gaussian_head`), or weights
            of several: `{"mse": 1.0, "ccc": 0.5}`.
        huber_delta: where the Huber loss turns from square to straight, in units of the target.
        gaussian_head: predict a log variance beside the mean.
        frame_rate: Hz of the frames, for the receptive field in seconds.
        target_unit: unit of the predictions, such as "uS" or "z".
        target_channels: names of the predicted channels, `output_size` of them, or None.
        target_scaling: what turns predictions back into the recorded unit, as JSON, or None.
    """

    model_type = "tcn"

    input_size: int = 80
    output_size: int = 1
    num_blocks: int = 6
    num_channels: int = 64
    kernel_size: int = 3
    dropout: float = 0.1
    causal: bool = False
    norm: str = "weight"
    loss: str | dict[str, float] = "mse"
    huber_delta: float = 1.0
    gaussian_head: bool = False
    frame_rate: float = 4.0
    target_unit: str = "uS"
    target_channels: list[str] | None = None
    target_scaling: dict | None = None

    def __post_init__(self, **kwargs: object) -> None:
        for name in ("input_size", "output_size", "num_blocks", "num_channels", "kernel_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"TcnConfig: {name}={value!r} must be a whole number of 1 or more")
        for name in ("dropout", "huber_delta", "frame_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"TcnConfig: {name}={value!r} must be a finite number")
        for name in ("causal", "gaussian_head"):  # "no" would count as true
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"TcnConfig: {name}={getattr(self, name)!r} must be true or false")
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"TcnConfig: kernel_size={self.kernel_size} is even and cannot be centred on a frame; "
                f"take {self.kernel_size - 1} or {self.kernel_size + 1}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"TcnConfig: dropout={self.dropout} must be in [0, 1)")
        if self.norm not in NORMS:
            raise ValueError(f"TcnConfig: norm={self.norm!r} is unknown; take one of {list(NORMS)}")
        for name in ("huber_delta", "frame_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"TcnConfig: {name}={getattr(self, name)} must be above 0")
        if self.target_channels is not None and len(self.target_channels) != self.output_size:
            raise ValueError(
                f"TcnConfig: target_channels={self.target_channels} must name output_size={self.output_size} channels"
            )
        check_loss(self.loss, self.gaussian_head)
        super().__post_init__(**kwargs)

    @property
    def receptive_field(self) -> int:
        """Frames of input that one output frame sees, itself included: two convolutions a block, dilations 2^i."""
        return 1 + 2 * (self.kernel_size - 1) * (2**self.num_blocks - 1)

    @property
    def receptive_field_seconds(self) -> float:
        """The receptive field in seconds at `frame_rate`."""
        return self.receptive_field / self.frame_rate
