"""Configuration of the WaveNet."""

from .configuration_signal import SignalConfig


class WavenetConfig(SignalConfig):
    """Sizes of a WaveNet. Layer i (from 0) of each stack has dilation `dilation_base`^i.

    See `SignalConfig` for head, loss and norm. `input_size`, `output_size` and `dropout` are aliases of
    `input_channels`, `output_channels` and `dropout_rate`, so that all models can be built in the same way.

    Args:
        input_channels: features per frame (F).
        output_channels: predicted channels per frame.
        num_stacks: repetitions of the sequence of dilations.
        num_layers_per_stack: gated layers per stack.
        residual_channels: channels passed from layer to layer (C).
        skip_channels: channels of the sum of all skip connections (S).
        kernel_size: taps of every dilated convolution. Odd, so that a frame sees as far back as ahead.
        dilation_base: factor between the dilations of neighboring layers.
        dropout_rate: dropout probability after each gate, in [0, 1), rounded on the CPU as in `TcnConfig`.
        use_bias: add a bias in convolutions and projections.
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
        """Also check `use_bias`, which only this model has."""
        super().check()
        if not isinstance(self.use_bias, bool):
            raise ValueError(f"WavenetConfig: use_bias={self.use_bias!r}: not a bool. Give true or false.")

    @property
    def weights(self) -> int:
        """Approximate number of weights: a gate and two projections per layer, the first layer and the last."""
        residual, skip = self.residual_channels, self.skip_channels
        layer = residual * (2 * self.kernel_size * residual + residual + skip)
        ends = self.input_size * residual + skip * (skip + self.output_size)
        return self.num_stacks * self.num_layers_per_stack * layer + ends

    @property
    def dilations(self) -> list[int]:
        """Dilations of all layers, first to last."""
        return self.num_stacks * [self.dilation_base**i for i in range(self.num_layers_per_stack)]

    @property
    def receptive_field(self) -> int:
        """Frames of input that one output frame depends on, itself included."""
        return 1 + (self.kernel_size - 1) * sum(self.dilations)
