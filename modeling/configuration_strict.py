"""What all configurations of models refuse: settings that they do not have, and sizes that no machine can hold."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import fields

from transformers import PreTrainedConfig

# Keys that transformers itself writes into a config or passes to one, and those that training leaves in it.
OF_TRANSFORMERS = {
    "model_type", "name_or_path", "_name_or_path", "num_labels", "torch_dtype", "output_attentions",
    "attn_implementation", "_attn_implementation", "experts_implementation", "_commit_hash", "auto_map",
    "custom_pipelines", "tokenizer_class", "per_layer_config",
}  # fmt: skip
OF_TRAINING = {"detection", "use_cache"}  # Trainer sets use_cache
OF_OLDER_VERSIONS = {"class_names", "class_weights"}
ALWAYS_NULL = OF_OLDER_VERSIONS | {"per_layer_config"}
DETECTION = ("clip_seconds", "hop_seconds", "threshold")  # which a run of detection leaves in a config
MOST = 65_536  # channels, features, taps or labels of one layer
MOST_LAYERS = 256
MOST_WORDS = 2**24  # of a tokenizer
MOST_WEIGHTS = 2**32  # of a model by its sizes: 16 GiB


class StrictConfig(PreTrainedConfig):
    """A configuration whose constructor takes no key that it does not know."""

    def __post_init__(self, **kwargs: object) -> None:
        kind = type(self).__name__
        for key in sorted(kwargs.keys() - OF_TRANSFORMERS - OF_TRAINING - OF_OLDER_VERSIONS):
            known = sorted({each.name for each in fields(self)} | self.attribute_map.keys())
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Must be one of {', '.join(known)}."
            raise ValueError(f"{kind}: {key}={kwargs[key]!r}: unknown setting. {remedy}")
        for key in sorted(ALWAYS_NULL & kwargs.keys()):
            if (value := kwargs.pop(key)) is not None:
                raise ValueError(f"{kind}: {key}={value!r}: these models do not have it. Leave it out.")
        check_detection(kind, kwargs.get("detection"))
        check_sizes(kind, {"num_labels": kwargs.get("num_labels") or 1}, MOST)
        super().__post_init__(**kwargs)

    @property
    def weights(self) -> int:
        """About how many numbers a model of these sizes has."""
        return 0

    def check_weights(self, sizes: Mapping[str, int]) -> None:
        """Refuse sizes that make too large a model together."""
        if self.weights > MOST_WEIGHTS:
            given = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(
                f"{type(self).__name__}: {given}: about {self.weights:.2g} weights, above {MOST_WEIGHTS:.2g}. Take "
                "smaller sizes."
            )


def check_detection(kind: str, detection: object) -> None:
    """Refuse an entry that is not of the three numbers by which a detector listens."""
    if detection is None:
        return
    if not isinstance(detection, dict) or detection.keys() != set(DETECTION):
        raise ValueError(
            f"{kind}: detection={detection!r}: not of {', '.join(DETECTION)}. Give these, or leave it out."
        )
    for name, value in detection.items():
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or (value <= 0 and name != "threshold"):
            wanted = "finite number" if name == "threshold" else "number above 0"
            raise ValueError(f"{kind}: detection.{name}={value!r}: not a {wanted}. Give one.")


def check_sizes(kind: str, sizes: Mapping[str, object], most: int) -> None:
    """Refuse what is no whole number of 1 or more, or too large, in one line that names the setting."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{kind}: {name}={size!r} must be a whole number of 1 or more")
        if size > most:
            raise ValueError(f"{kind}: {name}={size}: too large. Take {most} at most.")
