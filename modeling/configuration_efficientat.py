"""Configuration of EfficientAT, a MobileNetV3 over log-mel spectra that detects 527 AudioSet sounds."""

import math

from .configuration_strict import MAX_SIZE, StrictConfig, check_sizes


class EfficientAtConfig(StrictConfig):
    """Sizes of an EfficientAT network, and the audio windows that it processes.

    Squeeze-excitation averages over the whole input, so the output for a moment depends on the length of the window
    around it. Window and hop are therefore part of the model: training, evaluation and prediction all use them.

    Args:
        width: factor on the channels of MobileNetV3-Large, 0.4 for mn04.
        num_mel_bins: features per frame (F).
        classifier_size: units of the classifier's hidden layer.
        classifier_dropout: dropout probability in [0, 1).
        window_seconds: length of a window.
        hop_seconds: time between the starts of two windows.
    """

    model_type = "efficientat"
    sizes = ("num_mel_bins", "classifier_size")

    width: float = 0.4
    num_mel_bins: int = 128
    classifier_size: int = 512
    classifier_dropout: float = 0.2
    window_seconds: float = 2.0
    hop_seconds: float = 0.5

    def __post_init__(self, **kwargs: object) -> None:
        config_name = type(self).__name__
        for name in ("width", "window_seconds", "hop_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{config_name}: {name}={value!r}: must be a number above 0. Give one.")
        if self.width > MAX_WIDTH:
            raise ValueError(f"{config_name}: width={self.width}: too wide. Give at most {MAX_WIDTH:g}.")
        check_sizes(config_name, {name: getattr(self, name) for name in self.sizes}, MAX_SIZE)
        dropout = self.classifier_dropout
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"{config_name}: classifier_dropout={dropout!r}: not in [0, 1). Give 0 to below 1.")
        if self.hop_seconds > self.window_seconds:
            raise ValueError(
                f"{config_name}: hop_seconds={self.hop_seconds}: skips audio between windows of {self.window_seconds} "
                "s. Give at most window_seconds."
            )
        super().__post_init__(**kwargs)
        self.check_weights({"width": self.width, "classifier_size": self.classifier_size})

    @property
    def weights(self) -> int:
        """Approximate number of weights in the blocks and the classifier."""
        return int(BLOCK_WEIGHTS * self.width**2) + self.classifier_size * (self.hidden_size + self.num_labels)

    @property
    def hidden_size(self) -> int:
        """Size of an embedding (D). It follows from `width`."""
        return EXPANSION * scaled(LAST_CHANNELS, self.width)


MAX_WIDTH = 10.0
BLOCK_WEIGHTS = 3e6  # weights in the blocks of MobileNetV3-Large
# In MobileNetV3-Large: channels of the last block, and the factor of the convolution after it.
LAST_CHANNELS, EXPANSION = 160, 6


def scaled(channels: int, width: float) -> int:
    """Scale channels by width and round to a multiple of 8, losing at most a tenth."""
    # This is torchvision's `_make_divisible`. Other rounding would not fit the published weights.
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded
