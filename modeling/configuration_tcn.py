"""Configuration of the temporal convolutional network (TCN)."""

from .configuration_signal import SignalConfig


class TcnConfig(SignalConfig):
    """What a TCN is made of; block i (from 0) has dilation 2^i. Head, loss and norm: see `SignalConfig`.

    Args:
        input_size: features a frame (F).
        output_size: predicted channels a frame.
        num_blocks: residual blocks of two convolutions each.
        num_channels: channels of every block (C).
        kernel_size: taps of every convolution; odd, so that a frame has as much context before as after it.
        dropout: probability in [0, 1) that a number after a ReLU is set to zero in training. On the CPU it is realised
            in steps of 1/256 (0.1 as 26/256), and the rest is scaled by what was realised.
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
        """Of two convolutions a block, and of what comes first and last."""
        within = 2 * self.num_blocks * self.kernel_size * self.num_channels
        return self.num_channels * (within + self.kernel_size * self.input_size + self.output_size)

    @property
    def receptive_field(self) -> int:
        """Frames of input that one output frame sees, itself included: two convolutions a block, dilations 2^i."""
        return 1 + 2 * (self.kernel_size - 1) * (2**self.num_blocks - 1)
