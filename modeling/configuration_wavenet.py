"""Configuration of the WaveNet."""

from .configuration_signal import SignalConfig


class WavenetConfig(SignalConfig):
    """What a WaveNet is made of; layer i (from 0) of each stack has dilation `dilation_base`^i.

    Head, loss and norm: see `SignalConfig`. `input_size`, `output_size` and `dropout` are other names of
    `input_channels`, `output_channels` and `dropout_rate`, so that all models can be built alike.

    Args:
        input_channels: features a frame (F).
        output_channels: predicted channels a frame.
        num_stacks: how often the dilations are run through.
        num_layers_per_stack: gated layers of a stack.
        residual_channels: channels that go from layer to layer (C).
        skip_channels: channels of the sum that all layers add to (S).
        kernel_size: taps of every dilated convolution; odd, so that a frame has as much context before as after it.
        dilation_base: factor between the dilations of neighbouring layers.
        dropout_rate: probability in [0, 1) that a gate's output is set to zero in training, as the TCN realises it.
        use_bias: whether convolutions and projections add a bias.
    """

    model_type = "wavenet"
    attribute_map = {"input_size": "input_channels", "output_size": "output_channels", "dropout": "dropout_rate"}
    sizes = (*SignalConfig.sizes, "residual_channels", "skip_channels", "dilation_base")
    depths = ("num_stacks", "num_layers_per_stack")

    input_channels: int = 80
    output_channels: int = 1
    num_stacks: int = 2
    num_layers_per_stack: int = 6
    residual_channels: int = 64
    skip_channels: int = 64
    dilation_base: int = 2
    dropout_rate: float = 0.1
    use_bias: bool = True

    def check(self) -> None:
        """Also the one setting that no other model has."""
        super().check()
        if not isinstance(self.use_bias, bool):
            raise ValueError(f"WavenetConfig: use_bias={self.use_bias!r} must be true or false")

    @property
    def weights(self) -> int:
        """Of a gate and two projections a layer, and of what comes first and last."""
        residual, skip = self.residual_channels, self.skip_channels
        layer = residual * (2 * self.kernel_size * residual + residual + skip)
        ends = self.input_size * residual + skip * (skip + self.output_size)
        return self.num_stacks * self.num_layers_per_stack * layer + ends

    @property
    def dilations(self) -> list[int]:
        """Of all layers, first to last."""
        return self.num_stacks * [self.dilation_base**i for i in range(self.num_layers_per_stack)]

    @property
    def receptive_field(self) -> int:
        """Frames of input that one output frame sees, itself included."""
        return 1 + (self.kernel_size - 1) * sum(self.dilations)
