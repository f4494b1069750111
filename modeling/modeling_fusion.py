"""What is said, seen and heard, encoded and fused: `FusionModel`, and what is made of it, `FusionForEmotion` and
`FusionForRegression`.

A modality that is not there, for one item or for all, is a mask of zeros, or an input that is left out.
"""

# B items, M modalities, E an encoder's numbers, H hidden size, S fused size

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

IGNORED = -100  # a label that is not scored, as in torch


@dataclass
class FusionOutput(ModelOutput):
    """What the fused modalities are.

    Args:
        state: (B, S), of all modalities together.
        present: (B, M) bool, which modalities of the config it was made of.
    """

    state: torch.Tensor | None = None
    present: torch.Tensor | None = None


@dataclass
class RegressionOutput(ModelOutput):
    """What `FusionForRegression` returns.

    Args:
        loss: scalar, when labels were given; in deviations of the training targets, squared for "mse".
        predictions: (B,), in the unit of the target.
        present: (B, M) bool, the modalities that they were made of, in the order of the config.
    """

    loss: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    present: torch.Tensor | None = None


@dataclass
class EmotionOutput(ModelOutput):
    """What `FusionForEmotion` returns.

    Args:
        loss: scalar, when labels were given.
        emotion_logits: (B, emotions).
        sentiment_logits: (B, sentiments).
        present: (B, M) bool, the modalities that it was made of, in the order of the config.
    """

    loss: torch.Tensor | None = None
    emotion_logits: torch.Tensor | None = None
    sentiment_logits: torch.Tensor | None = None
    present: torch.Tensor | None = None


class FusionPreTrainedModel(PreTrainedModel):
    """Initialisation, and BatchNorms of frozen encoders that stay as they are."""

    config_class = FusionConfig
    base_model_prefix = "fusion"
    main_input_name = "input_ids"
    _supports_sdpa = True
    heads: tuple[str, ...] = ()  # what a model makes of the fused state, by the names of its layers

    def _init_weights(self, module: nn.Module) -> None:
        """Variance-keeping for what a ReLU follows; torchvision's way in 3-D convolutions."""
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
        """As in transformers, with what is frozen frozen."""
        super().post_init()
        self.train(self.training)

    def train(self, mode: bool = True) -> "FusionPreTrainedModel":
        """As in torch, but frozen encoders stay in evaluation: else their BatchNorms would drift and dropout act.

        They are frozen here and not when they are made, for `from_pretrained` puts new parameters in their place.
        """
        super().train(mode)
        for module in self.modules():
            if getattr(module, "frozen", False):
                module.encoder.eval().requires_grad_(False)
        return self

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters, trained and frozen, of each part: a branch a modality, the fusion, the heads."""
        fusion = self.base_model
        modules = {**fusion.branches, "fusion": fusion.layer} | {name: getattr(self, name) for name in self.heads}
        found = {name: list(module.parameters()) for name, module in modules.items()}
        if fusion.absent is not None:
            found["fusion"].append(fusion.absent)
        return found

    def set_input_scaling(self, name: str, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Keep the training set's mean and deviation (E,) of a modality's embeddings with the weights."""
        branch = self.base_model.branches[name]
        for given, buffer in ((mean, branch.input_mean), (std, branch.input_std)):
            given = torch.as_tensor(given, dtype=buffer.dtype)
            if given.shape != buffer.shape or not given.isfinite().all():
                raise ValueError(
                    f"{name}: scaling of shape {tuple(given.shape)} must hold {len(buffer)} finite numbers"
                )
            buffer.copy_(given)
        if not (branch.input_std > 0).all():
            raise ValueError(f"{name}: a deviation is not above 0; give 1 for a number that never changes")

    def part_sizes(self) -> dict[str, int]:
        """Count the numbers that each part learns."""
        return {name: sum(p.numel() for p in part if p.requires_grad) for name, part in self.parts().items()}


class FusionModel(FusionPreTrainedModel):
    """Encoders, a vector a modality, one state of all."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.branches = nn.ModuleDict({name: branch_of(name, config) for name in config.modalities})
        self.layer = FusionLayer(config)
        absent = torch.zeros(len(config.modalities), config.hidden_size)
        self.absent = nn.Parameter(absent) if config.learned_absent else None
        self.post_init()

    def encode(self, name: str, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What a modality's encoder makes of its input, (B, E): the part that can be cached where it is frozen."""
        branch = self.branches[name]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not branch.frozen):
            return branch.encode(value, mask)

    def forward(self, **inputs: torch.Tensor | None) -> FusionOutput:
        """Fuse what is there.

        Args:
            input_ids, attention_mask: (B, L), of text.
            pixel_values, frame_mask: (B, 3, N, height, width) and (B, N).
            input_features, features_mask: (B, T, F) and (B, T), of sound.
            <name>_embeddings, <name>_mask: (B, T, E) and (B, T), of a modality that `config.embedding_sizes` names.
            text_features, video_features, audio_features: (B, E), what `encode` made before, instead of an input; the
                mask is still asked for.

        A mask may be left out where all is there; a modality may be left out altogether, and is then absent.
        """
        states, present = [], []
        given = [x for x in inputs.values() if x is not None]
        if not given:
            raise ValueError(f"no input came; give those of one or more of {self.config.modalities}")
        batch, device = len(given[0]), given[0].device
        for name, branch in self.branches.items():
            encoded, there = self.encoded(name, inputs)
            if encoded is None:
                states.append(self.layer.projection.weight.new_zeros(batch, self.config.hidden_size))
                present.append(torch.zeros(batch, dtype=torch.bool, device=device))
            else:
                states.append(branch(encoded))
                present.append(there)
        state, here = torch.stack(states, 1), torch.stack(present, 1)  # (B, M, H), (B, M)
        if self.training and self.config.modality_dropout:
            here = hide_modalities(here, self.config.modality_dropout)
        stand_in = state.new_zeros(()) if self.absent is None else self.absent.to(state.dtype)
        state = torch.where(here.unsqueeze(-1), state, stand_in)
        return FusionOutput(state=self.layer(state, here), present=here)

    def encoded(
        self, name: str, inputs: dict[str, torch.Tensor | None]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """A modality's (B, E) and which items have it (B,), or None twice where nothing of it came."""
        value_name, mask_name = self.config.inputs_of(name)
        value, mask, cached = inputs.get(value_name), inputs.get(mask_name), inputs.get(f"{name}_features")
        if value is None and cached is None:
            return None, None
        some = cached if value is None else value
        if mask is None:
            frames = 0 if value is None else 2 if value_name == "pixel_values" else 1
            mask = torch.ones(len(some), some.shape[frames] if frames else 1, dtype=torch.long, device=some.device)
        encoded = self.encode(name, value, mask) if cached is None else cached
        return encoded, mask.bool().any(1)


def hide_modalities(present: torch.Tensor, probability: float) -> torch.Tensor:
    """present (B, M) with some of it hidden at random; one modality that is there always stays."""
    luck = torch.rand(present.shape, device=present.device)
    kept = present & (luck >= probability)
    luckiest = luck.masked_fill(~present, -1.0).argmax(1, keepdim=True)
    return kept | (present & torch.zeros_like(present).scatter(1, luckiest, True))


def summed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: list[float] | None, smoothing: float
) -> torch.Tensor:
    """A head's cross entropy (), summed over the labels (B,) that are scored; logits (B, classes)."""
    weights = None if weights is None else logits.new_tensor(weights, dtype=torch.float32)
    return F.cross_entropy(
        logits.float(), labels, weights, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )


def scored_labels(labels: torch.Tensor, num_items: torch.Tensor | int | None) -> torch.Tensor:
    """By how many a summed loss is divided, 1 or more: the labels that are scored, unless the Trainer says."""
    count = (labels != IGNORED).sum() if num_items is None else torch.as_tensor(num_items, device=labels.device)
    return count.clamp_min(1)


class FusionForEmotion(FusionPreTrainedModel):
    """The emotion and the sentiment of an utterance."""

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
        """Name emotion and sentiment.

        Args:
            labels: (B, 2), the emotion's and the sentiment's number; -100 is not scored.
            num_items_in_batch: scored labels of all batches of one step, by which the Trainer asks to divide.
            inputs: those of `FusionModel`.
        """
        output = self.fusion(**inputs)
        logits = self.emotion(output.state), self.sentiment(output.state)
        loss = None if labels is None else self.loss(logits, labels, num_items_in_batch)
        return EmotionOutput(loss, *logits, output.present)

    def loss(
        self, logits: tuple[torch.Tensor, ...], labels: torch.Tensor, num_items: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The heads' weighted cross entropies, summed: each a sum over items by the count of scored labels a head."""
        if labels.shape != (len(logits[0]), len(logits)):
            raise ValueError(f"labels.shape = {tuple(labels.shape)} must be (B, 2) = {(len(logits[0]), len(logits))}")
        config = self.config
        total = logits[0].new_zeros((), dtype=torch.float32)
        for head, (name, scores) in enumerate(zip(self.heads, logits, strict=True)):
            weights, share = getattr(config, f"{name}_weights"), getattr(config, f"{name}_share")
            total = total + share * summed_cross_entropy(scores, labels[:, head], weights, config.label_smoothing)
        return total * len(logits) / scored_labels(labels, num_items)

    def load_video_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Take over an r3d_18 from its state dict; the layer for its own 400 classes is left out."""
        branch = self.fusion.branches["video"] if "video" in self.fusion.branches else None
        if not isinstance(branch, VideoBranch) or self.config.video_encoder != "r3d_18":
            raise ValueError("video weights are for video_encoder='r3d_18' with 'video' among the modalities")
        kept = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        try:
            branch.encoder.load_state_dict(kept)
        except RuntimeError as error:
            raise ValueError(f"the video weights are not those of torchvision's r3d_18: {error}") from error


class FusionForRegression(FusionPreTrainedModel):
    """One number of an item, such as the attention that an advertisement gets."""

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
        """Predict the number.

        Args:
            labels: (B,), in the unit of the target.
            num_items_in_batch: labels of all batches of one step, by which the Trainer asks to divide.
            inputs: those of `FusionModel`.
        """
        config = self.config
        output = self.fusion(**inputs)
        scaled = self.regression(output.state).float().squeeze(-1)  # (B,), in deviations
        loss = None
        if labels is not None:
            if labels.shape != scaled.shape:
                raise ValueError(f"labels.shape = {tuple(labels.shape)} must be (B,) = {tuple(scaled.shape)}")
            wanted = (labels.float() - config.target_mean) / config.target_std
            if config.regression_loss == "huber":
                total = F.huber_loss(scaled, wanted, reduction="sum", delta=config.huber_delta)
            else:
                total = F.mse_loss(scaled, wanted, reduction="sum")
            loss = total / (len(labels) if num_items_in_batch is None else num_items_in_batch)
        return RegressionOutput(loss, scaled * config.target_std + config.target_mean, output.present)
