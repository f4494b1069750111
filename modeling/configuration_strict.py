"""What all configurations of models refuse: settings that they do not have, and sizes that no machine can hold."""

import difflib
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
OF_OLDER_VERSIONS = {"class_names", "class_weights"}  # were always null
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


def check_sizes(kind: str, sizes: Mapping[str, object], most: int) -> None:
    """Refuse what is no whole number of 1 or more, or too large, in one line that names the setting."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{kind}: {name}={size!r} must be a whole number of 1 or more")
        if size > most:
            raise ValueError(f"{kind}: {name}={size}: too large. Take {most} at most.")
