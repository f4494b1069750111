"""Configuration of EfficientAT, a MobileNetV3 over log-mel spectra that names 527 sounds of AudioSet."""

import math

from .configuration_strict import MOST, StrictConfig, check_sizes


class EfficientAtConfig(StrictConfig):
    """Sizes of an EfficientAT network, and the windows of sound that it is used with.

    Squeeze-excitation averages over the whole input, so the output for a moment depends on the length of the window
    around it. Window and hop are therefore part of the model: training, evaluation and prediction all use them.

    Args:
        width: factor on the channels of MobileNetV3-Large, 0.4 for mn04.
        num_mel_bins: features per frame (F).
        hidden_size: numbers of an embedding (D), which follow from `width`.
        classifier_size: units of the classifier's hidden layer.
        classifier_dropout: probability in [0, 1) of a unit to be dropped in training.
        window_seconds, hop_seconds: length of a window, and the time from one to the next.
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
        kind = type(self).__name__
        for name in ("width", "window_seconds", "hop_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{kind}: {name}={value!r} is no size. Give a number above 0.")
        if self.width > MAX_WIDTH:
            raise ValueError(f"{kind}: width={self.width} is too wide. Give at most {MAX_WIDTH:g}.")
        check_sizes(kind, {name: getattr(self, name) for name in self.sizes}, MOST)
        dropout = self.classifier_dropout
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"{kind}: classifier_dropout={dropout!r} is no share. Give 0 to below 1.")
        if self.hop_seconds > self.window_seconds:
            raise ValueError(
                f"{kind}: hop_seconds={self.hop_seconds} skips sound between windows of {self.window_seconds} s. Give "
                "at most the window's length."
            )
        super().__post_init__(**kwargs)
        self.check_weights({"width": self.width, "classifier_size": self.classifier_size})

    @property
    def weights(self) -> int:
        """Of the blocks, and of the classifier."""
        return int(BLOCK_WEIGHTS * self.width**2) + self.classifier_size * (self.hidden_size + self.num_labels)

    @property
    def hidden_size(self) -> int:
        """Numbers of an embedding (D)."""
        return EXPANSION * scaled(LAST_CHANNELS, self.width)


MAX_WIDTH = 10.0
BLOCK_WEIGHTS = 3e6  # of MobileNetV3-Large
LAST_CHANNELS, EXPANSION = 160, 6  # of MobileNetV3-Large: channels of the last block, and of the convolution after it


def scaled(channels: int, width: float) -> int:
    """Channels times width, as a multiple of 8 that is not more than a tenth too small."""
    wanted = channels * width
    found = max(8, int(wanted + 4) // 8 * 8)
    return found + 8 if found < 0.9 * wanted else found
