"""Configuration of a toy model: one convolution over time."""

from .configuration_signal import SignalConfig


class ToyConfig(SignalConfig):
    """The sizes of the model. Its head, loss and norm are settings of `SignalConfig`.

    Args:
        input_size: features per frame (F).
        output_size: predicted channels per frame.
        num_channels: channels of the convolution (C).
        kernel_size: width of the convolution in frames; odd.
        dropout: dropout probability in [0, 1).
    """

    model_type = "toy"  # the value of a config's key `model_type`
    sizes = (*SignalConfig.sizes, "num_channels")  # settings that must be whole numbers above 0

    input_size: int = 80
    output_size: int = 1
    num_channels: int = 16
    kernel_size: int = 15
    dropout: float = 0.1

    @property
    def weights(self) -> int:
        """Approximate number of weights; configs with too many are rejected."""
        return self.num_channels * (self.kernel_size * self.input_size + self.output_size)

    @property
    def receptive_field(self) -> int:
        """Number of input frames that one output frame depends on."""
        return self.kernel_size
