"""Configuration of the temporal convolutional network (TCN)."""

from .configuration_signal import SignalConfig


class TcnConfig(SignalConfig):
    """Sizes of a TCN. Block i (from 0) has dilation 2^i. See `SignalConfig` for head, loss and norm.

    Args:
        input_size: features per frame (F).
        output_size: predicted channels per frame.
        num_blocks: residual blocks of two convolutions each.
        num_channels: channels of every block (C).
        kernel_size: taps of every convolution. Odd, so that a frame sees as far back as ahead.
        dropout: dropout probability after each ReLU, in [0, 1). On the CPU it is rounded to steps of 1/256 (0.1 is
            26/256), and the scale uses the rounded value.
    """

    model_type = "tcn"
    sizes = (*SignalConfig.sizes, "num_channels")
    depths = ("num_blocks",)

    input_size: int = 80
    output_size: int = 1
    num_blocks: int = 6
    num_channels: int = 64
    dropout: float = 0.1

    @property
    def weights(self) -> int:
        """Approximate number of weights: two convolutions per block, the first layer and the last."""
        within = 2 * self.num_blocks * self.kernel_size * self.num_channels
        return self.num_channels * (within + self.kernel_size * self.input_size + self.output_size)

    @property
    def receptive_field(self) -> int:
        """Frames of input that one output frame depends on, itself included."""
        # Two convolutions per block, with dilations 1, 2, 4, ...
        return 1 + 2 * (self.kernel_size - 1) * (2**self.num_blocks - 1)
