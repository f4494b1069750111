"""Configuration of a detector that hears through a pretrained encoder."""

import math

from .configuration_efficientat import EfficientAtConfig
from .configuration_strict import MOST, MOST_LAYERS, StrictConfig, check_sizes

HEADS = ("linear", "mlp", "tcn")
FINETUNE = ("none", "last_n", "full")


class EncoderConfig(StrictConfig):
    """A pretrained encoder, the head on its embeddings, and which of both is trained.

    Args:
        encoder_config: of the encoder, as a dict or a config. Its windows are those of the model.
        head: "linear" or "mlp" on the embedding of a window, or "tcn" over the embeddings of its frames.
        head_size: units of the hidden layer of "mlp", channels of "tcn".
        head_blocks: residual blocks of "tcn".
        head_dropout: probability in [0, 1) of a unit to be dropped in training.
        finetune: layers of the encoder that are trained: "none", "last_n" or "full".
        finetune_layers: how many "last_n" are.
        encoder_labels: labels of the encoder that are the target. The highest of their logits is added to that of
            the head, which starts at 0: a new model scores as its encoder does. Empty: the head scores alone.
        positive_weight: weight of a window with the target in the loss; one without it has 1.
    """

    model_type = "encoder_head"
    sub_configs = {"encoder_config": EfficientAtConfig}

    encoder_config: dict | EfficientAtConfig | None = None
    head: str = "linear"
    head_size: int = 64
    head_blocks: int = 2
    head_dropout: float = 0.1
    finetune: str = "none"
    finetune_layers: int = 3
    encoder_labels: list[int] | tuple[int, ...] = ()
    positive_weight: float = 1.0

    def __post_init__(self, **kwargs: object) -> None:
        if not isinstance(self.encoder_config, EfficientAtConfig):
            self.encoder_config = EfficientAtConfig.from_dict(self.encoder_config or {})
        self.encoder_labels = list(self.encoder_labels)
        self.check()
        super().__post_init__(**kwargs)
        if self.encoder_labels and self.num_labels != 1:
            raise ValueError(
                f"EncoderConfig: encoder_labels={self.encoder_labels} start one label, not num_labels="
                f"{self.num_labels}. Leave encoder_labels out."
            )

    def check(self) -> None:
        """Refuse what cannot be built, in one line that names the setting."""
        for name, known in (("head", HEADS), ("finetune", FINETUNE)):
            if getattr(self, name) not in known:
                raise ValueError(f"EncoderConfig: {name}={getattr(self, name)!r}: not known. Take {', '.join(known)}.")
        check_sizes("EncoderConfig", {"head_size": self.head_size}, MOST)
        layers = {"head_blocks": self.head_blocks, "finetune_layers": self.finetune_layers}
        check_sizes("EncoderConfig", layers, MOST_LAYERS)
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"EncoderConfig: head_dropout={self.head_dropout!r}: not a share. Give 0 to below 1.")
        if not 0 < self.positive_weight < math.inf:
            raise ValueError(f"EncoderConfig: positive_weight={self.positive_weight!r}: not above 0. Give 1 or so.")
        labels, count = self.encoder_labels, self.encoder_config.num_labels
        if not all(isinstance(label, int) and 0 <= label < count for label in labels):
            raise ValueError(f"EncoderConfig: encoder_labels={labels}: the encoder has labels 0 to {count - 1}.")
