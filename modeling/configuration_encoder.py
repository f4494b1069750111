"""Configuration of a detector with a head on a pretrained encoder."""

import math

from .configuration_efficientat import EfficientAtConfig
from .configuration_strict import MAX_LAYERS, MAX_SIZE, StrictConfig, check_sizes

HEADS = ("linear", "mlp", "tcn")
FINETUNE = ("none", "last_n", "full")


class EncoderConfig(StrictConfig):
    """A pretrained encoder, a head on its embeddings, and which parts are trained.

    Args:
        encoder_config: config of the encoder, or a dict of it. Its windows are those of the model.
        head: "linear" or "mlp" on the embedding of a window, or "tcn" over the embeddings of its frames.
        head_size: units of the hidden layer of "mlp", channels of "tcn".
        head_blocks: residual blocks of "tcn".
        head_dropout: dropout probability in [0, 1).
        finetune: trained layers of the encoder: "none", "last_n" or "full".
        finetune_layers: N for "last_n".
        encoder_labels: indices of the encoder's labels that match the target. The highest of their logits is added to
            the logit of the head, which starts at 0, so a new model scores like its encoder. Empty: head only.
        positive_weight: loss weight of a window that contains the target; other windows have weight 1.
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
                f"EncoderConfig: encoder_labels={self.encoder_labels}: need num_labels=1, not {self.num_labels}. "
                "Leave encoder_labels out."
            )

    def check(self) -> None:
        """Raise ValueError for settings that cannot be built."""
        for name, choices in (("head", HEADS), ("finetune", FINETUNE)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"EncoderConfig: {name}={value!r}: unknown. Give one of {', '.join(choices)}.")
        check_sizes("EncoderConfig", {"head_size": self.head_size}, MAX_SIZE)
        layers = {"head_blocks": self.head_blocks, "finetune_layers": self.finetune_layers}
        check_sizes("EncoderConfig", layers, MAX_LAYERS)
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"EncoderConfig: head_dropout={self.head_dropout!r}: not in [0, 1). Give 0 to below 1.")
        if not 0 < self.positive_weight < math.inf:
            weight = self.positive_weight
            raise ValueError(f"EncoderConfig: positive_weight={weight!r}: must be above 0. Give about 1.")
        labels, count = self.encoder_labels, self.encoder_config.num_labels
        if not all(isinstance(label, int) and 0 <= label < count for label in labels):
            raise ValueError(
                f"EncoderConfig: encoder_labels={labels}: not labels of the encoder. Give 0 to {count - 1}."
            )
