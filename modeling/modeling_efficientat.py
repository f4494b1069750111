"""EfficientAT (Schmid, Koutini and Widmer 2023): torchvision's MobileNetV3 over log-mel spectra."""

# B windows, T frames of features, F mel bands, K frames of embeddings, D embedding size, L labels

from functools import partial

import torch
from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_efficientat import LAST_CHANNELS, EfficientAtConfig, scaled
from .modeling_classification import MULTI, AudioClassificationOutput, classification_loss

# The blocks of MobileNetV3-Large: channels in, kernel, channels inside, channels out, squeeze-excitation, activation,
# stride. Strides divide both time and frequency.
BLOCKS = (
    (16, 3, 16, 16, False, "RE", 1),
    (16, 3, 64, 24, False, "RE", 2),
    (24, 3, 72, 24, False, "RE", 1),
    (24, 5, 72, 40, True, "RE", 2),
    (40, 5, 120, 40, True, "RE", 1),
    (40, 5, 120, 40, True, "RE", 1),
    (40, 3, 240, 80, False, "HS", 2),
    (80, 3, 200, 80, False, "HS", 1),
    (80, 3, 184, 80, False, "HS", 1),
    (80, 3, 184, 80, False, "HS", 1),
    (80, 3, 480, 112, True, "HS", 1),
    (112, 3, 672, 112, True, "HS", 1),
    (112, 5, 672, LAST_CHANNELS, True, "HS", 2),
    (LAST_CHANNELS, 5, 960, LAST_CHANNELS, True, "HS", 1),
    (LAST_CHANNELS, 5, 960, LAST_CHANNELS, True, "HS", 1),
)
FIRST_CHANNELS = 16
FRAMES_PER_EMBEDDING = 32  # product of all strides; the first embedding is centered on the first frame
FRAME_RATE = 100.0  # frames per second, the same for all supported published feature extractors
NORM_EPSILON, NORM_MOMENTUM = 1e-3, 1e-2  # as in the published model


class EfficientAtPreTrainedModel(PreTrainedModel):
    """Initialization and registration of EfficientAT."""

    config_class = EfficientAtConfig
    base_model_prefix = "efficientat"
    main_input_name = "input_features"

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, 0, 0.01)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)


class EfficientAtModel(EfficientAtPreTrainedModel):
    """One embedding per window, and one per 32 frames (0.32 s with the published features)."""

    def __init__(self, config: EfficientAtConfig) -> None:
        super().__init__(config)
        norm = partial(nn.BatchNorm2d, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)
        block = partial(InvertedResidual, norm_layer=norm, se_layer=SqueezeExcitation)
        layer = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.Hardswish)
        first, last = scaled(FIRST_CHANNELS, config.width), scaled(LAST_CHANNELS, config.width)
        self.features = nn.Sequential(
            layer(1, first, kernel_size=3, stride=2),
            *(
                block(InvertedResidualConfig(*channels, squeeze, activation, stride, 1, config.width))
                for *channels, squeeze, activation, stride in BLOCKS
            ),
            layer(last, config.hidden_size, kernel_size=1),
        )
        self.frozen = 0  # number of frozen layers, counted from the first
        self.post_init()

    def freeze(self, last_n: int | None) -> None:
        """Train only the last `last_n` layers; 0 trains none, None all.

        BatchNorms in frozen layers keep their running statistics, also in training.
        """
        if last_n is not None and not 0 <= last_n <= len(self.features):
            raise ValueError(f"last_n={last_n}: out of range. Give 0 to {len(self.features)}, the number of layers.")
        self.frozen = 0 if last_n is None else len(self.features) - last_n
        for index, layer in enumerate(self.features):
            layer.requires_grad_(index >= self.frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "EfficientAtModel":
        """Set training mode, except for the frozen layers."""
        super().train(mode)
        self.features[: self.frozen].eval()
        # Depthwise convolutions take half the time in channels_last. This is not done in __init__, because
        # `from_pretrained` replaces the weights after it.
        if self.features[0][0].weight.stride(1) != 1:
            self.features.to(memory_format=torch.channels_last)
        return self

    def forward(self, input_features: torch.Tensor, **kwargs: object) -> BaseModelOutputWithPooling:
        """input_features (B, T, F) -> last_hidden_state (B, K, D) over time, and pooler_output (B, D)."""
        states = self.features(input_features.transpose(1, 2)[:, None])  # (B, D, F / 32, K)
        return BaseModelOutputWithPooling(
            last_hidden_state=states.mean(2).transpose(1, 2), pooler_output=states.mean((2, 3))
        )


def in_equal_parts(scores: torch.Tensor, seconds: float) -> torch.Tensor:
    """Interpolate scores (B, K, L), given every 0.32 s from 0, at the middles of K equal parts of the window."""
    # Detectors assume that the frames divide a window evenly.
    count = scores.shape[1]
    step = FRAMES_PER_EMBEDDING / FRAME_RATE  # s
    positions = (torch.arange(count, device=scores.device) + 0.5) / count * seconds / step
    positions = positions.clamp(max=count - 1)
    before = positions.long()
    after = (before + 1).clamp(max=count - 1)
    return scores[:, before].lerp(scores[:, after], (positions - before)[:, None].to(scores.dtype))


class EfficientAtForAudioClassification(EfficientAtPreTrainedModel):
    """EfficientAT with the published classifier: logits per label, for the window and for each embedding in it."""

    def __init__(self, config: EfficientAtConfig) -> None:
        super().__init__(config)
        self.efficientat = EfficientAtModel(config)
        self.classifier = nn.Sequential(
            nn.Linear(config.hidden_size, config.classifier_size),
            nn.Hardswish(),
            nn.Dropout(config.classifier_dropout),
            nn.Linear(config.classifier_size, config.num_labels),
        )
        self.post_init()

    def freeze(self, last_n: int | None) -> None:
        """Train only the classifier and the last `last_n` layers, see `EfficientAtModel.freeze`."""
        self.efficientat.freeze(last_n)

    def forward(
        self,
        input_features: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: object,
    ) -> AudioClassificationOutput:
        """input_features (B, T, F), labels (B, L) in [0, 1] -> logits (B, L) and frame_logits (B, K, L)."""
        states = self.efficientat(input_features)
        logits = self.classifier(states.pooler_output)
        frame_logits = in_equal_parts(self.classifier(states.last_hidden_state), input_features.shape[1] / FRAME_RATE)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config.problem_type or MULTI, num_items_in_batch)
        return AudioClassificationOutput(loss, logits, frame_logits)
