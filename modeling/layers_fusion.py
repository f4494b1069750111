"""Parts of the fusion models: one encoder per modality, each ending in one vector, and the fusion of these vectors."""

# B items, M modalities, T frames of sound, F mel bands, N frames of video, H hidden size, C channels, S fused size

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.video import r3d_18
from transformers import AutoModel

from .configuration_fusion import VIDEO_ENCODERS, FusionConfig

SMALL_CHANNELS = (16, 32, 64)  # channels of the small video encoder's layers
ATTENTION_HEADS = 4


class TextBranch(nn.Module):
    """A BERT-like encoder, pooling, and a linear map."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.pooling, self.frozen = config.text_pooling, config.freeze_text
        self.encoder = AutoModel.from_config(config.text_config)
        if self.pooling == "mean" and getattr(self.encoder, "pooler", None) is not None:
            # An unused pooler would get no gradients, which DistributedDataParallel treats as an error.
            self.encoder.pooler = None
        self.projection = nn.Linear(config.text_config.hidden_size, config.hidden_size)

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L) tokens and their mask -> (B, E)."""
        # A softmax over nothing but padding would be NaN, so empty texts attend to their padding.
        empty = ~attention_mask.bool().any(1, keepdim=True)
        attention_mask = attention_mask.masked_fill(empty, 1)
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        if self.pooling == "mean":
            weights = attention_mask.unsqueeze(-1).to(output.last_hidden_state.dtype)
            return (output.last_hidden_state * weights).sum(1) / weights.sum(1)
        if getattr(output, "pooler_output", None) is None:
            model_type = self.encoder.config.model_type
            raise ValueError(f"text_pooling='pooler': {model_type} has no pooler. Set text_pooling='mean'.")
        return output.pooler_output

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """(B, E) -> (B, H)."""
        return self.projection(encoded)


class SmallVideoNet(nn.Sequential):
    """Three strided layers over space and time, and a mean. Fast on a CPU, too small for real video."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((3, *SMALL_CHANNELS), SMALL_CHANNELS, strict=False)):
            stride = (1, 2, 2) if i == 0 else 2
            layers += [nn.Conv3d(before, after, 3, stride, 1, bias=False), nn.BatchNorm3d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())


class VideoBranch(nn.Module):
    """A 3-D convolutional network over frames, linear map, ReLU and dropout."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.frozen = config.freeze_video
        if config.video_encoder == "r3d_18":
            self.encoder = r3d_18(weights=None)
            self.encoder.fc = nn.Identity()
        else:
            self.encoder = SmallVideoNet()
        self.projection = nn.Linear(VIDEO_ENCODERS[config.video_encoder], config.hidden_size)
        self.dropout = nn.Dropout(config.branch_dropout)

    def encode(self, pixel_values: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """(B, 3, N, height, width) -> (B, E), 0 for clips without video."""
        has_video = frame_mask.bool().any(1)
        if has_video.all():
            return self.encoder(pixel_values)
        # Clips without video skip the encoder, so that they do not change its BatchNorm statistics. If no clip has
        # video, one is encoded all the same: then each weight has a gradient, of zero, as distributed training needs.
        chosen = has_video if has_video.any() else torch.arange(len(has_video), device=has_video.device) == 0
        pixels = pixel_values[chosen].masked_fill(~has_video[chosen].view(-1, 1, 1, 1, 1), 0.0)
        encoded = self.encoder(pixels)
        return encoded.new_zeros(len(chosen), encoded.shape[1]).index_copy(0, chosen.nonzero().flatten(), encoded)

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """(B, E) -> (B, H)."""
        return self.dropout(F.relu(self.projection(encoded)))


class FrameNorm(nn.BatchNorm1d):
    """BatchNorm over real frames. Padding changes neither the output nor the running statistics."""

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """x (B, T, C) and valid (B, T) -> (B, T, C), 0 in padding."""
        frames = x[valid]  # (V, C)
        batch_statistics = self.training and len(frames) > 1  # one frame has no variance
        if batch_statistics:
            self.num_batches_tracked.add_(1)
        frames = F.batch_norm(
            frames,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            batch_statistics,
            self.momentum,
            self.eps,
        )
        return torch.zeros_like(x).masked_scatter(valid.unsqueeze(-1), frames.to(x.dtype))


class SpectrogramBranch(nn.Module):
    """Two convolutions over the frames of a log-mel spectrogram, a mean over frames, linear map, ReLU, dropout.

    (B, T, F) - conv 3 - BatchNorm - ReLU - max of 2 - conv 3 - BatchNorm - ReLU - mean - linear - ReLU - dropout
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.frozen = config.freeze_audio_conv
        bands, wide = config.num_mel_bins, 2 * config.num_mel_bins
        self.encoder = nn.ModuleDict(
            {
                "conv1": nn.Conv1d(bands, bands, 3, padding=1), "norm1": FrameNorm(bands),
                "conv2": nn.Conv1d(bands, wide, 3, padding=1), "norm2": FrameNorm(wide),
            }
        )  # fmt: skip
        self.projection = nn.Linear(wide, config.hidden_size)
        self.dropout = nn.Dropout(config.branch_dropout)

    def encode(self, input_features: torch.Tensor, features_mask: torch.Tensor) -> torch.Tensor:
        """(B, T, F) and (B, T) -> (B, E), 0 for an item without frames. Padding has no influence."""
        valid = features_mask.bool()
        x = input_features.masked_fill(~valid.unsqueeze(-1), 0.0)
        x = self.encoder["conv1"](x.transpose(1, 2)).transpose(1, 2)
        x = F.relu(self.encoder["norm1"](x, valid))
        x = F.max_pool1d(x.transpose(1, 2), 2, ceil_mode=True)  # ceil keeps a single frame
        valid = F.max_pool1d(valid.float().unsqueeze(1), 2, ceil_mode=True).squeeze(1) > 0
        x = self.encoder["conv2"](x).transpose(1, 2)
        x = F.relu(self.encoder["norm2"](x, valid))
        return x.sum(1) / valid.sum(1, keepdim=True).clamp_min(1)

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """(B, E) -> (B, H)."""
        return self.dropout(F.relu(self.projection(encoded)))


class EmbeddingBranch(nn.Module):
    """Stored embeddings, any number per item: standardized, pooled over time, and projected.

    The projection is trained and saved like any layer. Its input size is the size of the stored embeddings.
    """

    frozen = False

    def __init__(self, config: FusionConfig, size: int) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(size))
        self.register_buffer("input_std", torch.ones(size))
        self.attention = nn.Linear(size, 1, bias=False) if config.embedding_pooling == "attention" else None
        self.projection = nn.Linear(size, config.hidden_size)
        self.dropout = nn.Dropout(config.branch_dropout)

    def encode(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, E) and (B, T) -> (B, E), 0 for an item without embeddings. Padding has no influence."""
        size = len(self.input_mean)
        if embeddings.ndim != 3 or embeddings.shape[-1] != size:
            raise ValueError(f"embeddings.shape={tuple(embeddings.shape)}: must be (B, T, {size}). Check the data.")
        valid = mask.bool().unsqueeze(-1)  # (B, T, 1)
        x = ((embeddings - self.input_mean) / self.input_std).masked_fill(~valid, 0.0)
        if self.attention is None:
            return x.sum(1) / valid.sum(1).clamp_min(1)
        scores = self.attention(x)
        # Under autocast the scores are in half precision but x is not, so take the minimum of the scores' dtype.
        scores = scores.masked_fill(~valid, torch.finfo(scores.dtype).min)
        return (scores.softmax(1) * x).sum(1)

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """(B, E) -> (B, H)."""
        return self.dropout(F.relu(self.projection(encoded)))


class FusionLayer(nn.Module):
    """All modalities fused as `config.fusion` says, then linear map, BatchNorm, ReLU, dropout.

    "concat" concatenates them. "gated" first weights each modality by a gate in [0, 1] that depends on all modalities.
    "attention" applies self-attention over the modalities and averages those that are present.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        count, hidden = len(config.modalities), config.hidden_size
        self.fusion = config.fusion
        self.gate = nn.Linear(count * hidden, count) if self.fusion == "gated" else None
        self.query_key_value = nn.Linear(hidden, 3 * hidden) if self.fusion == "attention" else None
        self.projection = nn.Linear(hidden if self.fusion == "attention" else count * hidden, config.fusion_size)
        self.norm = nn.BatchNorm1d(config.fusion_size)
        self.dropout = nn.Dropout(config.fusion_dropout)

    def forward(self, states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """states (B, M, H) and present (B, M) -> (B, S)."""
        if self.training and len(states) < 2:
            raise ValueError("batch_size=1: BatchNorm cannot train on one item. Give 2 or more.")
        if self.fusion == "gated":
            gates = self.gate(states.flatten(1)).sigmoid()  # (B, M)
            states = states * gates.unsqueeze(-1)
        joined = self.attend(states, present) if self.fusion == "attention" else states.flatten(1)
        return self.dropout(F.relu(self.norm(self.projection(joined))))

    def attend(self, states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """(B, M, H) -> (B, H): self-attention with a residual, averaged over the modalities that are present."""
        hidden = states.shape[-1]
        heads = ATTENTION_HEADS if hidden % ATTENTION_HEADS == 0 else 1
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in self.query_key_value(states).chunk(3, -1)
        )  # (B, heads, M, H / heads)
        # An item without any modality attends to the vectors that represent missing ones: a softmax over nothing
        # would be NaN.
        empty = ~present.any(1, keepdim=True)
        weights = (present | empty).to(states.dtype)
        allowed_keys = (weights > 0)[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed_keys)
        states = states + attended.transpose(1, 2).flatten(2)
        return (states * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True)


class Head(nn.Sequential):
    """Fused state to logits: linear, ReLU, dropout, linear."""

    def __init__(self, config: FusionConfig, classes: int) -> None:
        super().__init__(
            nn.Linear(config.fusion_size, config.head_size),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.head_size, classes),
        )


def branch_of(name: str, config: FusionConfig) -> nn.Module:
    """Build the branch for a modality."""
    if name in config.embedding_sizes:
        return EmbeddingBranch(config, config.embedding_sizes[name])
    return {"text": TextBranch, "video": VideoBranch, "audio": SpectrogramBranch}[name](config)
