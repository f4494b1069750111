"""Parts of the fusion models: an encoder a modality, all of which end in one vector, and ways to join the vectors."""

# B items, M modalities, T frames of sound, F mel bands, N frames of video, H hidden size, C channels, S fused size

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.video import r3d_18
from transformers import AutoModel

from .configuration_fusion import VIDEO_ENCODERS, FusionConfig

SMALL_CHANNELS = (16, 32, 64)  # of the small video encoder's layers
ATTENTION_HEADS = 4


class TextBranch(nn.Module):
    """A BERT-like encoder, pooled, and a linear map."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.pooling, self.frozen = config.text_pooling, config.freeze_text
        self.encoder = AutoModel.from_config(config.text_config)
        if self.pooling == "mean" and getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # or its weights would wait for gradients that never come
        self.projection = nn.Linear(config.text_config.hidden_size, config.hidden_size)

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L) tokens and their mask -> (B, E)."""
        nothing = ~attention_mask.bool().any(1, keepdim=True)
        attention_mask = attention_mask.masked_fill(nothing, 1)  # a sentence of nothing but padding has no softmax
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        if self.pooling == "mean":
            weights = attention_mask.unsqueeze(-1).to(output.last_hidden_state.dtype)
            return (output.last_hidden_state * weights).sum(1) / weights.sum(1)
        if getattr(output, "pooler_output", None) is None:
            kind = self.encoder.config.model_type
            raise ValueError(f"text_pooling='pooler': a {kind} encoder has no pooler; take text_pooling='mean'")
        return output.pooler_output

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """(B, E) -> (B, H)."""
        return self.projection(encoded)


class SmallVideoNet(nn.Sequential):
    """Three strided layers over space and time, and a mean: small enough for a CPU, of no use on real pictures."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((3, *SMALL_CHANNELS), SMALL_CHANNELS, strict=False)):
            stride = (1, 2, 2) if i == 0 else 2
            layers += [nn.Conv3d(before, after, 3, stride, 1, bias=False), nn.BatchNorm3d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())


class VideoBranch(nn.Module):
    """A 3-D convolutional network over frames, and a linear map, ReLU and dropout."""

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
        """(B, 3, N, height, width) -> (B, E), 0 for clips without a picture, which no BatchNorm gets to see."""
        seen = frame_mask.bool().any(1)
        if seen.all():
            return self.encoder(pixel_values)
        # Of a batch without any picture one clip is encoded all the same: each weight then has its gradient of zero.
        some = seen if seen.any() else torch.arange(len(seen), device=seen.device) == 0
        encoded = self.encoder(pixel_values[some].masked_fill(~seen[some].view(-1, 1, 1, 1, 1), 0.0))
        return encoded.new_zeros(len(seen), encoded.shape[1]).index_copy(0, some.nonzero().flatten(), encoded)

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """(B, E) -> (B, H)."""
        return self.dropout(F.relu(self.projection(encoded)))


class FrameNorm(nn.BatchNorm1d):
    """BatchNorm over the frames that are real: padding changes neither them nor the running statistics."""

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
    """Two convolutions over the frames of a log-mel spectrogram, a mean over them, and a linear map, ReLU, dropout.

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
        """(B, T, F) and (B, T) -> (B, E), 0 where there is no frame; padding has no influence."""
        valid = features_mask.bool()
        x = input_features.masked_fill(~valid.unsqueeze(-1), 0.0)
        x = self.encoder["conv1"](x.transpose(1, 2)).transpose(1, 2)
        x = F.relu(self.encoder["norm1"](x, valid))
        x = F.max_pool1d(x.transpose(1, 2), 2, ceil_mode=True)  # ceil: a single frame stays one
        valid = F.max_pool1d(valid.float().unsqueeze(1), 2, ceil_mode=True).squeeze(1) > 0
        x = self.encoder["conv2"](x).transpose(1, 2)
        x = F.relu(self.encoder["norm2"](x, valid))
        return x.sum(1) / valid.sum(1, keepdim=True).clamp_min(1)

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """(B, E) -> (B, H)."""
        return self.dropout(F.relu(self.projection(encoded)))


class EmbeddingBranch(nn.Module):
    """Stored embeddings, any number of them an item: brought to one scale, pooled over time, and mapped.

    The map is a layer like any other: trained, saved, and of the width that the data have.
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
        """(B, T, E) and (B, T) -> (B, E), 0 where there is none; padding has no influence."""
        size = len(self.input_mean)
        if embeddings.ndim != 3 or embeddings.shape[-1] != size:
            raise ValueError(f"embeddings of shape {tuple(embeddings.shape)} must be (B, T, {size})")
        valid = mask.bool().unsqueeze(-1)  # (B, T, 1)
        x = ((embeddings - self.input_mean) / self.input_std).masked_fill(~valid, 0.0)
        if self.attention is None:
            return x.sum(1) / valid.sum(1).clamp_min(1)
        scores = self.attention(x)
        scores = scores.masked_fill(~valid, torch.finfo(scores.dtype).min)  # autocast halves the scores, not x
        return (scores.softmax(1) * x).sum(1)

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """(B, E) -> (B, H)."""
        return self.dropout(F.relu(self.projection(encoded)))


class FusionLayer(nn.Module):
    """All modalities as one: joined in the way that `config.fusion` says, then a linear map, BatchNorm, ReLU, dropout.

    "gated" weighs each modality by a number of 0 to 1 that all of them together decide; "attention" lets them look at
    each other and takes the mean of those that are there.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        count, hidden = len(config.modalities), config.hidden_size
        self.kind = config.fusion
        self.gate = nn.Linear(count * hidden, count) if self.kind == "gated" else None
        self.query_key_value = nn.Linear(hidden, 3 * hidden) if self.kind == "attention" else None
        self.projection = nn.Linear(hidden if self.kind == "attention" else count * hidden, config.fusion_size)
        self.norm = nn.BatchNorm1d(config.fusion_size)
        self.dropout = nn.Dropout(config.fusion_dropout)

    def forward(self, states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """states (B, M, H) and present (B, M) -> (B, S)."""
        if self.training and len(states) < 2:
            raise ValueError(
                "a batch of one item cannot be trained on: BatchNorm has no variance of it; take 2 or more"
            )
        if self.kind == "gated":
            gates = self.gate(states.flatten(1)).sigmoid()  # (B, M)
            states = states * gates.unsqueeze(-1)
        joined = self.attend(states, present) if self.kind == "attention" else states.flatten(1)
        return self.dropout(F.relu(self.norm(self.projection(joined))))

    def attend(self, states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """(B, M, H) -> (B, H): each modality that is there plus what it sees in the others, averaged."""
        hidden = states.shape[-1]
        heads = ATTENTION_HEADS if hidden % ATTENTION_HEADS == 0 else 1
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in self.query_key_value(states).chunk(3, -1)
        )  # (B, heads, M, H / heads)
        nobody = ~present.any(1, keepdim=True)
        weights = (present | nobody).to(states.dtype)  # an item with nothing at all looks at what stands for it
        allowed = (weights > 0)[:, None, None, :]  # of keys
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        states = states + seen.transpose(1, 2).flatten(2)
        return (states * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True)


class Head(nn.Sequential):
    """A fused state to logits: linear, ReLU, dropout, linear."""

    def __init__(self, config: FusionConfig, classes: int) -> None:
        super().__init__(
            nn.Linear(config.fusion_size, config.head_size),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.head_size, classes),
        )


def branch_of(name: str, config: FusionConfig) -> nn.Module:
    """What encodes a modality."""
    if name in config.embedding_sizes:
        return EmbeddingBranch(config, config.embedding_sizes[name])
    return {"text": TextBranch, "video": VideoBranch, "audio": SpectrogramBranch}[name](config)
