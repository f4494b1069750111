"""Base of all model configurations: refuses unknown settings, and sizes that no machine can hold."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import fields

from transformers import PreTrainedConfig

# Keys that transformers writes into a config or passes to one, and keys that training leaves in a config.
OF_TRANSFORMERS = {
    "model_type", "name_or_path", "_name_or_path", "num_labels", "torch_dtype", "output_attentions",
    "attn_implementation", "_attn_implementation", "experts_implementation", "_commit_hash", "auto_map",
    "custom_pipelines", "tokenizer_class", "per_layer_config",
}  # fmt: skip
OF_TRAINING = {"detection", "use_cache"}  # transformers' Trainer sets use_cache
OF_OLDER_VERSIONS = {"class_names", "class_weights"}
ALWAYS_NULL = OF_OLDER_VERSIONS | {"per_layer_config"}
DETECTION = ("clip_seconds", "hop_seconds", "threshold")  # keys of the entry that a detection run writes to a config
MAX_SIZE = 65_536  # channels, features, taps or labels of one layer
MAX_LAYERS = 256
MAX_VOCABULARY = 2**24  # tokens
MAX_WEIGHTS = 2**32  # 16 GiB in float32


class StrictConfig(PreTrainedConfig):
    """A configuration that refuses unknown settings."""

    def __post_init__(self, **kwargs: object) -> None:
        config_name = type(self).__name__
        for key in sorted(kwargs.keys() - OF_TRANSFORMERS - OF_TRAINING - OF_OLDER_VERSIONS):
            settings = sorted({each.name for each in fields(self)} | self.attribute_map.keys())
            near = difflib.get_close_matches(key, settings, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Must be one of {', '.join(settings)}."
            raise ValueError(f"{config_name}: {key}={kwargs[key]!r}: unknown setting. {remedy}")
        for key in sorted(ALWAYS_NULL & kwargs.keys()):
            if (value := kwargs.pop(key)) is not None:
                raise ValueError(f"{config_name}: {key}={value!r}: not a setting of these models. Leave it out.")
        check_detection(config_name, kwargs.get("detection"))
        check_sizes(config_name, {"num_labels": kwargs.get("num_labels") or 1}, MAX_SIZE)
        super().__post_init__(**kwargs)

    @property
    def weights(self) -> int:
        """Approximate number of weights of a model with these sizes."""
        return 0

    def check_weights(self, sizes: Mapping[str, int]) -> None:
        """Raise ValueError if the sizes together make the model too large."""
        if self.weights > MAX_WEIGHTS:
            given = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(
                f"{type(self).__name__}: {given}: about {self.weights:.2g} weights, above {MAX_WEIGHTS:.2g}. Give "
                "smaller sizes."
            )


def check_detection(config_name: str, detection: object) -> None:
    """Raise ValueError unless `detection` is None or has exactly the three settings of a detector."""
    if detection is None:
        return
    if not isinstance(detection, dict) or detection.keys() != set(DETECTION):
        raise ValueError(
            f"{config_name}: detection={detection!r}: keys must be {', '.join(DETECTION)}. Give these or none."
        )
    for name, value in detection.items():
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or (value <= 0 and name != "threshold"):
            expected = "finite number" if name == "threshold" else "number above 0"
            raise ValueError(f"{config_name}: detection.{name}={value!r}: not a {expected}. Give one.")


def check_sizes(config_name: str, sizes: Mapping[str, object], most: int) -> None:
    """Raise ValueError for a size that is not an integer from 1 to `most`."""
    for name, size in sizes.items():
        # bool is a subclass of int: `true` would pass as 1.
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{config_name}: {name}={size!r}: must be a positive integer. Give 1 to {most}.")
        if size > most:
            raise ValueError(f"{config_name}: {name}={size}: too large. Give at most {most}.")
