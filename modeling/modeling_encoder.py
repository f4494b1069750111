"""A classification head on the embeddings of a pretrained encoder, which can be finetuned."""

# B windows, T frames of features, F mel bands, K frames of embeddings, D embedding size, L labels

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_encoder import EncoderConfig
from .configuration_tcn import TcnConfig
from .layers import init_weights
from .modeling_classification import MULTI, AudioClassificationOutput, PooledHead, classification_loss
from .modeling_efficientat import EfficientAtForAudioClassification, in_equal_parts
from .modeling_tcn import TcnModel


class WindowHead(nn.Module):
    """Embedding to logits. The same weights apply to the window and to its frames."""

    def __init__(self, config: EncoderConfig, size: int) -> None:
        super().__init__()
        self.hidden = nn.Identity()
        if config.head == "mlp":
            self.hidden = nn.Sequential(nn.Linear(size, config.head_size), nn.ReLU())
            size = config.head_size
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(size, config.num_labels)
        self.classifier.init_gain = 0.0  # a new head predicts 0, so the encoder's own logits decide at first

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, 1 + K, D) -> logits (B, L) and frame logits (B, K, L)."""
        logits = self.classifier(self.dropout(self.hidden(embeddings)))
        return logits[:, 0], logits[:, 1:]


class FramesHead(nn.Module):
    """A TCN over the embeddings of the frames of a window, pooled by attention."""

    def __init__(self, config: EncoderConfig, size: int) -> None:
        super().__init__()
        self.tcn = TcnModel(
            TcnConfig(
                input_size=size,
                num_blocks=config.head_blocks,
                num_channels=config.head_size,
                dropout=config.head_dropout,
            )
        )
        self.pooled = PooledHead(config.head_size, config.num_labels, "attention")
        self.pooled.classifier.init_gain = 0.0

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, 1 + K, D) -> logits (B, L) and frame logits (B, K, L)."""
        return self.pooled(self.tcn(embeddings[:, 1:]).last_hidden_state, None)


def head_of(config: EncoderConfig, size: int) -> WindowHead | FramesHead:
    """Build the head named in the config, on embeddings of `size`."""
    return (FramesHead if config.head == "tcn" else WindowHead)(config, size)


class EncoderForAudioClassification(PreTrainedModel):
    """An encoder and a head that predicts whether windows contain a target.

    A new head predicts 0. If the encoder has labels for the target, a new model scores like the encoder.
    """

    config_class = EncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.encoder = EfficientAtForAudioClassification(config.encoder_config)
        size = config.encoder_config.hidden_size
        self.head = head_of(config, size)
        self.register_buffer("embedding_mean", torch.zeros(size))
        self.register_buffer("embedding_std", torch.ones(size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module)
        if isinstance(module, EncoderForAudioClassification):
            init.zeros_(module.embedding_mean)
            init.ones_(module.embedding_std)

    def post_init(self) -> None:
        """Freeze layers after the initialization of transformers."""
        super().post_init()
        self.train(self.training)

    def trained_layers(self) -> int:
        """Return how many of the encoder's last layers are trained."""
        layers = len(self.encoder.efficientat.features)
        trained = {"none": 0, "last_n": self.config.finetune_layers, "full": layers}[self.config.finetune]
        if trained > layers:
            raise ValueError(f"finetune_layers={trained}: the encoder has {layers} layers. Give at most {layers}.")
        return trained

    def train(self, mode: bool = True) -> "EncoderForAudioClassification":
        """Set training mode, except for frozen layers, which stay in evaluation mode."""
        # In training mode, frozen BatchNorms would update their statistics and dropout would be active. Parameters are
        # frozen here rather than in __init__, because `from_pretrained` replaces them.
        super().train(mode)
        self.encoder.classifier.eval().requires_grad_(False)
        self.encoder.efficientat.freeze(self.trained_layers())
        return self

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters, trained and frozen, by part."""
        return {"encoder": list(self.encoder.parameters()), "head": list(self.head.parameters())}

    def set_embedding_scaling(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Store mean and standard deviation (D,) of the embeddings of training windows with the weights."""
        self.embedding_mean.copy_(mean)
        self.embedding_std.copy_(std)

    def embed(self, input_features: torch.Tensor) -> torch.Tensor:
        """Features (B, T, F) -> the embedding of each window, then those of its frames: (B, 1 + K, D)."""
        states = self.encoder.efficientat(input_features)
        return torch.cat([states.pooler_output[:, None], states.last_hidden_state], 1)

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: object,
    ) -> AudioClassificationOutput:
        """Predict the labels of each window and of its frames.

        Args:
            input_features: (B, T, F), for the encoder.
            embeddings: (B, 1 + K, D), the result of `embed`; the encoder is then skipped.
            labels: (B, L) in [0, 1].
            num_items_in_batch: number of labels in all batches of one step. The Trainer passes it as the divisor of
                the loss.
        """
        if (input_features is None) == (embeddings is None):
            raise ValueError("input_features, embeddings: both or neither given. Give one of them.")
        if embeddings is None:
            embeddings = self.embed(input_features)
            if self.config.finetune == "none":
                # Stored embeddings are in half precision. Rounding here gives evaluation and prediction equal scores.
                embeddings = embeddings.half()
        embeddings = embeddings.to(self.embedding_mean.dtype)
        logits, frame_logits = self.head((embeddings - self.embedding_mean) / self.embedding_std)
        if self.config.encoder_labels:
            encoder_logits = self.encoder.classifier(embeddings)[..., self.config.encoder_labels]
            # The target is present if any of its labels is.
            highest = encoder_logits.amax(-1, keepdim=True)  # (B, 1 + K, 1)
            logits, frame_logits = logits + highest[:, 0], frame_logits + highest[:, 1:]
        frame_logits = in_equal_parts(frame_logits, self.config.encoder_config.window_seconds)
        loss = None
        if labels is not None:
            weight = self.config.positive_weight
            loss = classification_loss(logits, labels, MULTI, num_items_in_batch, weight)
        return AudioClassificationOutput(loss, logits, frame_logits)
