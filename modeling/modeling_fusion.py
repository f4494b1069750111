"""Text, video and audio, encoded and fused: `FusionModel`, and on top `FusionForEmotion` and `FusionForRegression`.

A missing modality has a mask of zeros for one item, or is left out of the inputs for the whole batch.
"""

# B items, M modalities, E size of an encoder's output, H hidden size, S fused size

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_fusion import FusionConfig
from .layers_fusion import EmbeddingBranch, FusionLayer, Head, VideoBranch, branch_of

IGNORED = -100  # a label with this value is not scored, as in torch


@dataclass
class FusionOutput(ModelOutput):
    """Output of `FusionModel`.

    Args:
        state: (B, S), all modalities fused.
        present: (B, M) bool, the modalities that were used, in the order of the config.
    """

    state: torch.Tensor | None = None
    present: torch.Tensor | None = None


@dataclass
class RegressionOutput(ModelOutput):
    """Output of `FusionForRegression`.

    Args:
        loss: scalar, if labels were given; in standard deviations of the training targets, squared for "mse".
        predictions: (B,), in the unit of the target.
        present: (B, M) bool, the modalities that were used, in the order of the config.
    """

    loss: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    present: torch.Tensor | None = None


@dataclass
class EmotionOutput(ModelOutput):
    """Output of `FusionForEmotion`.

    Args:
        loss: scalar, if labels were given.
        emotion_logits: (B, emotions).
        sentiment_logits: (B, sentiments).
        present: (B, M) bool, the modalities that were used, in the order of the config.
    """

    loss: torch.Tensor | None = None
    emotion_logits: torch.Tensor | None = None
    sentiment_logits: torch.Tensor | None = None
    present: torch.Tensor | None = None


class FusionPreTrainedModel(PreTrainedModel):
    """Initialization, and freezing of encoders."""

    config_class = FusionConfig
    base_model_prefix = "fusion"
    main_input_name = "input_ids"
    _supports_sdpa = True
    heads: tuple[str, ...] = ()  # names of the layers that read the fused state

    def _init_weights(self, module: nn.Module) -> None:
        # He's initialization before a ReLU. 3-D convolutions use fan-out, like torchvision's video models.
        if isinstance(module, nn.Conv3d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Conv1d):
            init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=math.sqrt(1 / module.in_features))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm3d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, EmbeddingBranch):
            init.zeros_(module.input_mean)
            init.ones_(module.input_std)
        if isinstance(module, nn.Conv1d | nn.Conv3d | nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)
        if isinstance(module, FusionModel) and module.absent is not None:
            init.zeros_(module.absent)

    def post_init(self) -> None:
        """Freeze encoders after the initialization of transformers."""
        super().post_init()
        self.train(self.training)

    def train(self, mode: bool = True) -> "FusionPreTrainedModel":
        """Set training mode, except for frozen encoders, which stay in evaluation mode."""
        # In training mode, frozen BatchNorms would update their statistics and dropout would be active. Parameters are
        # frozen here rather than in __init__, because `from_pretrained` replaces them.
        super().train(mode)
        for module in self.modules():
            if getattr(module, "frozen", False):
                module.encoder.eval().requires_grad_(False)
        return self

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters, trained and frozen, by part: one branch per modality, the fusion, the heads."""
        fusion = self.base_model
        modules = {**fusion.branches, "fusion": fusion.layer} | {name: getattr(self, name) for name in self.heads}
        parameters = {name: list(module.parameters()) for name, module in modules.items()}
        if fusion.absent is not None:
            parameters["fusion"].append(fusion.absent)
        return parameters

    def set_input_scaling(self, name: str, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Store mean and standard deviation (E,) of a modality's training embeddings with the weights."""
        branch = self.base_model.branches[name]
        for given, buffer in ((mean, branch.input_mean), (std, branch.input_std)):
            given = torch.as_tensor(given, dtype=buffer.dtype)
            if given.shape != buffer.shape or not given.isfinite().all():
                raise ValueError(
                    f"{name}: scaling has shape {tuple(given.shape)} or is not finite. Give {len(buffer)} numbers."
                )
            buffer.copy_(given)
        if not (branch.input_std > 0).all():
            raise ValueError(f"{name}: std must be above 0. Give 1 for a number that never changes.")

    def part_sizes(self) -> dict[str, int]:
        """Count the trained weights of each part."""
        return {name: sum(p.numel() for p in part if p.requires_grad) for name, part in self.parts().items()}


class FusionModel(FusionPreTrainedModel):
    """Encoders, one vector per modality, and their fusion into one state."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.branches = nn.ModuleDict({name: branch_of(name, config) for name in config.modalities})
        self.layer = FusionLayer(config)
        absent = torch.zeros(len(config.modalities), config.hidden_size)
        self.absent = nn.Parameter(absent) if config.learned_absent else None
        self.post_init()

    def encode(self, name: str, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode a modality, (B, E). With a frozen encoder the result can be cached and passed to `forward`."""
        branch = self.branches[name]
        # A frozen encoder needs no graph. This saves the memory of its activations.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not branch.frozen):
            return branch.encode(value, mask)

    def forward(self, **inputs: torch.Tensor | None) -> FusionOutput:
        """Fuse the modalities that are present.

        Args:
            input_ids, attention_mask: (B, L), of text.
            pixel_values, frame_mask: (B, 3, N, height, width) and (B, N).
            input_features, features_mask: (B, T, F) and (B, T), of audio.
            <name>_embeddings, <name>_mask: (B, T, E) and (B, T), of a modality in `config.embedding_sizes`.
            text_features, video_features, audio_features: (B, E), cached results of `encode`, instead of an input. The
                mask is still needed.

        Without a mask, all items have the modality. Without its inputs, no item has it.
        """
        states, present = [], []
        given = [x for x in inputs.values() if x is not None]
        if not given:
            names = ", ".join(self.config.modalities)
            raise ValueError(f"inputs: none given. Give those of one or more of {names}.")
        batch, device = len(given[0]), given[0].device
        for name, branch in self.branches.items():
            encoded, available = self.encoded(name, inputs)
            if encoded is None:
                states.append(self.layer.projection.weight.new_zeros(batch, self.config.hidden_size))
                present.append(torch.zeros(batch, dtype=torch.bool, device=device))
            else:
                states.append(branch(encoded))
                present.append(available)
        state, present = torch.stack(states, 1), torch.stack(present, 1)  # (B, M, H), (B, M)
        if self.training and self.config.modality_dropout:
            present = hide_modalities(present, self.config.modality_dropout)
        substitute = state.new_zeros(()) if self.absent is None else self.absent.to(state.dtype)
        state = torch.where(present.unsqueeze(-1), state, substitute)
        return FusionOutput(state=self.layer(state, present), present=present)

    def encoded(
        self, name: str, inputs: dict[str, torch.Tensor | None]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return a modality's (B, E) and which items have it (B,), or twice None if it has no input."""
        value_name, mask_name = self.config.inputs_of(name)
        value, mask, cached = inputs.get(value_name), inputs.get(mask_name), inputs.get(f"{name}_features")
        if value is None and cached is None:
            return None, None
        given = cached if value is None else value
        if mask is None:
            frame_axis = 0 if value is None else 2 if value_name == "pixel_values" else 1
            frames = given.shape[frame_axis] if frame_axis else 1  # cached encodings have no frames
            mask = torch.ones(len(given), frames, dtype=torch.long, device=given.device)
        encoded = self.encode(name, value, mask) if cached is None else cached
        return encoded, mask.bool().any(1)


def hide_modalities(present: torch.Tensor, probability: float) -> torch.Tensor:
    """Hide some of present (B, M) at random. Every item keeps at least one of its modalities."""
    draws = torch.rand(present.shape, device=present.device)
    kept = present & (draws >= probability)
    # The modality with the highest draw is kept even if its draw is below the probability.
    highest = draws.masked_fill(~present, -1.0).argmax(1, keepdim=True)
    return kept | (present & torch.zeros_like(present).scatter(1, highest, True))


def summed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: list[float] | None, smoothing: float
) -> torch.Tensor:
    """Return a head's cross entropy, summed over the scored labels (B,); logits (B, classes)."""
    weights = None if weights is None else logits.new_tensor(weights, dtype=torch.float32)
    return F.cross_entropy(
        logits.float(), labels, weights, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )


def scored_labels(labels: torch.Tensor, num_items: torch.Tensor | int | None) -> torch.Tensor:
    """Return the divisor of a summed loss, at least 1: the scored labels, or the count from the Trainer."""
    count = (labels != IGNORED).sum() if num_items is None else torch.as_tensor(num_items, device=labels.device)
    return count.clamp_min(1)


class FusionForEmotion(FusionPreTrainedModel):
    """Predict the emotion and the sentiment of an utterance."""

    heads = ("emotion", "sentiment")

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.fusion = FusionModel(config)
        self.emotion = Head(config, len(config.emotion_names))
        self.sentiment = Head(config, len(config.sentiment_names))
        self.post_init()

    def forward(
        self,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **inputs: torch.Tensor | None,
    ) -> EmotionOutput:
        """Predict emotion and sentiment logits.

        Args:
            labels: (B, 2), class indices of emotion and sentiment; -100 is not scored.
            num_items_in_batch: scored labels in all batches of one step. The Trainer passes it as the divisor of the
                loss.
            inputs: those of `FusionModel`.
        """
        output = self.fusion(**inputs)
        logits = self.emotion(output.state), self.sentiment(output.state)
        loss = None if labels is None else self.loss(logits, labels, num_items_in_batch)
        return EmotionOutput(loss, *logits, output.present)

    def loss(
        self, logits: tuple[torch.Tensor, ...], labels: torch.Tensor, num_items: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the weighted sum of the heads' cross entropies, each divided by the scored labels per head."""
        if labels.shape != (len(logits[0]), len(logits)):
            shape = tuple(labels.shape)
            raise ValueError(f"labels.shape={shape}: must be (B, 2) = {(len(logits[0]), len(logits))}. Check labels.")
        config = self.config
        total = logits[0].new_zeros((), dtype=torch.float32)
        for head, (name, scores) in enumerate(zip(self.heads, logits, strict=True)):
            weights, share = getattr(config, f"{name}_weights"), getattr(config, f"{name}_share")
            total = total + share * summed_cross_entropy(scores, labels[:, head], weights, config.label_smoothing)
        # `scored_labels` counts the labels of both heads, so multiply by the number of heads.
        return total * len(logits) / scored_labels(labels, num_items)

    def load_video_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Load the state dict of an r3d_18, without its classifier of 400 classes."""
        branch = self.fusion.branches["video"] if "video" in self.fusion.branches else None
        if not isinstance(branch, VideoBranch) or self.config.video_encoder != "r3d_18":
            raise ValueError(
                f"video_encoder={self.config.video_encoder!r}: video weights need 'r3d_18' and 'video' in modalities. "
                "Change the config, or load no weights."
            )
        encoder_weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        try:
            branch.encoder.load_state_dict(encoder_weights)
        except RuntimeError as error:
            raise ValueError(f"video weights: not those of torchvision's r3d_18 ({error}). Give others.") from error


class FusionForRegression(FusionPreTrainedModel):
    """Predict one number per item, for example the attention that an advertisement gets."""

    heads = ("regression",)

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.fusion = FusionModel(config)
        self.regression = Head(config, 1)
        self.post_init()

    def forward(
        self,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **inputs: torch.Tensor | None,
    ) -> RegressionOutput:
        """Predict the target.

        Args:
            labels: (B,), in the unit of the target.
            num_items_in_batch: labels in all batches of one step. The Trainer passes it as the divisor of the loss.
            inputs: those of `FusionModel`.
        """
        config = self.config
        output = self.fusion(**inputs)
        scaled = self.regression(output.state).float().squeeze(-1)  # (B,), in standard deviations
        loss = None
        if labels is not None:
            if labels.shape != scaled.shape:
                shape = tuple(labels.shape)
                raise ValueError(f"labels.shape={shape}: must be (B,) = {tuple(scaled.shape)}. Check labels.")
            target = (labels.float() - config.target_mean) / config.target_std
            if config.regression_loss == "huber":
                total = F.huber_loss(scaled, target, reduction="sum", delta=config.huber_delta)
            else:
                total = F.mse_loss(scaled, target, reduction="sum")
            loss = total / (len(labels) if num_items_in_batch is None else num_items_in_batch)
        return RegressionOutput(loss, scaled * config.target_std + config.target_mean, output.present)
