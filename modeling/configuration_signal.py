"""What the configurations of all models over frames of sound, for signals and for labels, have in common."""

import math

from .configuration_strict import MOST, MOST_LAYERS, StrictConfig, check_sizes
from .layers import NORMS, POOLINGS, check_loss


class SignalConfig(StrictConfig):
    """Settings of the head, the loss and the time grid; a model's own config adds its sizes.

    What concerns loss and target is for signals. A model for labels reads `pooling`, and what all configs of
    transformers have: `num_labels` or `id2label`, and `problem_type`.

    Args:
        causal: True sees the present and the past only; False (the default) sees both sides.
        norm: "weight", "layer" (over the channels of one frame) or "none".
        loss: "mse", "l1", "huber", "ccc" (1 - concordance a trial), "gaussian" (needs `gaussian_head`), or weights
            of several: `{"mse": 1.0, "ccc": 0.5}`.
        huber_delta: where the Huber loss turns from square to straight, in units of the target.
        gaussian_head: predict a log variance beside the mean.
        frame_rate: Hz of the frames, for the receptive field in seconds.
        target_unit: unit of the predictions, such as "uS" or "z".
        target_channels: names of the predicted channels, as many as there are, or None.
        target_scaling: what turns predictions back into the recorded unit, as JSON, or None.
        pooling: how a clip's logits come from those of its frames: "attention" (a learned weight a frame and label),
            "max" or "mean".
    """

    sizes = ("input_size", "output_size", "kernel_size")  # a model adds its own: whole numbers of 1 or more
    depths = ()  # those of a model that count layers

    kernel_size: int = 3
    causal: bool = False
    norm: str = "weight"
    loss: str | dict[str, float] = "mse"
    huber_delta: float = 1.0
    gaussian_head: bool = False
    frame_rate: float = 4.0
    target_unit: str = "uS"
    target_channels: list[str] | None = None
    target_scaling: dict | None = None
    pooling: str = "attention"

    def __post_init__(self, **kwargs: object) -> None:
        for other, name in self.attribute_map.items():  # input_size is the same for all models, whatever they call it
            if other in kwargs:
                setattr(self, name, kwargs.pop(other))
        self.check()
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Refuse what cannot be built, in one line that names the setting, what came and what is taken."""
        kind, own = type(self).__name__, self.attribute_map
        sizes, depths = (
            {own.get(name, name): getattr(self, name) for name in names} for names in (self.sizes, self.depths)
        )
        check_sizes(kind, sizes, MOST)
        check_sizes(kind, depths, MOST_LAYERS)
        self.check_weights(sizes | depths)
        for name in ("dropout", "huber_delta", "frame_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{kind}: {own.get(name, name)}={value!r} must be a finite number")
        for name in ("causal", "gaussian_head"):  # "no" would count as true
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{kind}: {name}={getattr(self, name)!r} must be true or false")
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"{kind}: kernel_size={self.kernel_size} is even and cannot be centred on a frame; "
                f"take {self.kernel_size - 1} or {self.kernel_size + 1}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{kind}: {own.get('dropout', 'dropout')}={self.dropout} must be in [0, 1)")
        if self.norm not in NORMS:
            raise ValueError(f"{kind}: norm={self.norm!r} is unknown; take one of {list(NORMS)}")
        if self.pooling not in POOLINGS:
            raise ValueError(f"{kind}: pooling={self.pooling!r} is unknown; take one of {list(POOLINGS)}")
        for name in ("huber_delta", "frame_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{kind}: {name}={getattr(self, name)} must be above 0")
        if self.target_channels is not None and len(self.target_channels) != self.output_size:
            size = own.get("output_size", "output_size")
            raise ValueError(
                f"{kind}: target_channels={self.target_channels} must name {size}={self.output_size} channels"
            )
        check_loss(self.loss, self.gaussian_head)

    @property
    def context(self) -> tuple[int, int]:
        """Frames before and after a frame that its output depends on."""
        reach = self.receptive_field - 1
        return (reach, 0) if self.causal else (reach // 2, reach // 2)

    @property
    def receptive_field_seconds(self) -> float:
        """The receptive field in seconds at `frame_rate`."""
        return self.receptive_field / self.frame_rate
