"""Settings shared by all models over audio frames, for signals and for clip labels."""

import math

from .configuration_strict import MAX_LAYERS, MAX_SIZE, StrictConfig, check_sizes
from .layers import NORMS, POOLINGS, check_loss


class SignalConfig(StrictConfig):
    """Settings of the head, the loss and the time grid. Each model's config adds its sizes.

    The settings for loss and target apply to signals only. A classifier reads `pooling` and the usual settings of
    transformers: `num_labels` or `id2label`, and `problem_type`.

    Args:
        causal: use present and past frames only. False also uses later frames.
        norm: "weight", "layer" (over the channels of one frame) or "none".
        loss: "mse", "l1", "huber", "ccc" (1 - concordance per trial), "gaussian" (needs `gaussian_head`), or several
            with their weights: `{"mse": 1.0, "ccc": 0.5}`.
        huber_delta: error at which the Huber loss turns from quadratic to linear, in the unit of the target.
        gaussian_head: also predict a log variance.
        frame_rate: frames per second, for the receptive field in seconds.
        target_unit: unit of the predictions, for example "uS" or "z".
        target_channels: names of the predicted channels, or None.
        target_scaling: how to convert predictions to the recorded unit, as JSON, or None.
        pooling: how frame logits become clip logits: "attention" (a learned weight per frame and label), "max" or
            "mean".
    """

    sizes = ("input_size", "output_size", "kernel_size")  # settings that must be positive integers; models add theirs
    depths = ()  # settings of a model that count layers

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
        # Accept `input_size` and the like for every model, also for one whose field has another name.
        for alias, name in self.attribute_map.items():
            if alias in kwargs:
                setattr(self, name, kwargs.pop(alias))
        self.check()
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Raise ValueError for settings that cannot be built."""
        config_name, names = type(self).__name__, self.attribute_map  # errors use the field names of the model
        sizes, depths = (
            {names.get(name, name): getattr(self, name) for name in settings} for settings in (self.sizes, self.depths)
        )
        check_sizes(config_name, sizes, MAX_SIZE)
        check_sizes(config_name, depths, MAX_LAYERS)
        self.check_weights(sizes | depths)
        for name in ("dropout", "huber_delta", "frame_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(
                    f"{config_name}: {names.get(name, name)}={value!r}: must be a finite number. Give one."
                )
        for name in ("causal", "gaussian_head"):  # the string "no" would count as true
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{config_name}: {name}={getattr(self, name)!r}: not a bool. Give true or false.")
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"{config_name}: kernel_size={self.kernel_size}: even, so not centered on a frame. "
                f"Give {self.kernel_size - 1} or {self.kernel_size + 1}."
            )
        if not 0 <= self.dropout < 1:
            name = names.get("dropout", "dropout")
            raise ValueError(f"{config_name}: {name}={self.dropout}: not in [0, 1). Give 0 to below 1.")
        for name, choices in (("norm", NORMS), ("pooling", POOLINGS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{config_name}: {name}={value!r}: unknown. Give one of {', '.join(choices)}.")
        for name in ("huber_delta", "frame_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{config_name}: {name}={getattr(self, name)}: must be above 0. Give a number.")
        if self.target_channels is not None and len(self.target_channels) != self.output_size:
            name = names.get("output_size", "output_size")
            raise ValueError(
                f"{config_name}: target_channels={self.target_channels}: must name {self.output_size} channels. "
                f"Change the names or {name}={self.output_size}."
            )
        check_loss(self.loss, self.gaussian_head)

    @property
    def context(self) -> tuple[int, int]:
        """Number of frames before and after a frame that its output depends on."""
        reach = self.receptive_field - 1
        return (reach, 0) if self.causal else (reach // 2, reach // 2)

    @property
    def receptive_field_seconds(self) -> float:
        """Receptive field in seconds at `frame_rate`."""
        return self.receptive_field / self.frame_rate
