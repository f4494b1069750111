"""Base of all models that predict labels of a clip: logits per frame, pooled over the clip, and the loss.

Clip logits are pooled from frame logits. A model trained on labels of whole clips therefore also locates them in time.
"""

# B batch, T frames, F features, C channels, L labels

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput

from .configuration_signal import SignalConfig
from .layers import IGNORE_LABEL, at_least_float32, frame_mask, mask_frames
from .modeling_signal import SignalBackbone, SignalPreTrainedModel

MULTI, SINGLE = "multi_label_classification", "single_label_classification"


@dataclass
class AudioClassificationOutput(ModelOutput):
    """Output of a model that predicts labels of a clip.

    Args:
        loss: scalar, if labels were given.
        logits: (B, L), of the whole clip; 0 for a clip of nothing but padding.
        frame_logits: (B, T, L), of each frame; 0 in padding. For multi-label models, their sigmoid is the probability
            of a label in this frame, provided that the pooling gave the frame weight.
        hidden_states: the backbone's input and the output of each block, (B, T, C) each, on request.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    frame_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class PooledHead(nn.Module):
    """States to logits per frame and label, pooled to logits per clip and label, in float32 or better.

        states --+-- 1x1 -- frame logits --(*)-- sum over frames -- logits
                 |                          |
                 +-- 1x1 -- softmax over valid frames (one weight per frame and label)

    The figure shows pooling by "attention". A new model weights all frames equally and learns the weights. "max" and
    "mean" have no weights: "max" trains one frame of a clip at a time, "mean" expects the sound in every frame.
    """

    def __init__(self, num_channels: int, num_labels: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.classifier = nn.Linear(num_channels, num_labels)
        self.attention = None
        if pooling == "attention":
            # No bias: it would cancel in the softmax.
            self.attention = nn.Linear(num_channels, num_labels, bias=False)
            self.attention.init_gain = 0.0

    def forward(self, states: torch.Tensor, valid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """states (B, T, C) and valid (B, T, 1) or None -> logits (B, L) and frame logits (B, T, L)."""
        frame_logits = mask_frames(at_least_float32(self.classifier(states)), valid)
        # A softmax turns this into 0. Unlike -inf it gives no NaN for clips without a valid frame.
        lowest = torch.finfo(frame_logits.dtype).min
        if self.pooling == "attention":
            scores = at_least_float32(self.attention(states))
            scores = scores if valid is None else scores.masked_fill(~valid, lowest)
            return (scores.softmax(1) * frame_logits).sum(1), frame_logits
        if self.pooling == "mean":
            count = frame_logits.shape[1] if valid is None else valid.sum(1).clamp_min(1)
            return frame_logits.sum(1) / count, frame_logits
        if valid is None:
            return frame_logits.amax(1), frame_logits
        highest = frame_logits.masked_fill(~valid, lowest).amax(1)
        return highest.masked_fill(~valid.any(1), 0.0), frame_logits


class AudioClassificationModel(SignalPreTrainedModel):
    """A backbone with a linear map per frame to labels, pooled over the clip."""

    def __init__(self, config: SignalConfig, backbone: SignalBackbone, state_size: int) -> None:
        super().__init__(config)
        if config.problem_type not in (None, MULTI, SINGLE):
            raise ValueError(
                f"{type(config).__name__}: problem_type={config.problem_type!r}: not for labels. Give {MULTI!r} (any "
                f"number of labels per clip) or {SINGLE!r}."
            )
        setattr(self, self.base_model_prefix, backbone)
        self.head = PooledHead(state_size, config.num_labels, config.pooling)
        self.post_init()

    @property
    def problem_type(self) -> str:
        """Return the config's problem type. By default one label is multi-label, several are single-label."""
        # Other models in transformers treat one label without a problem type as regression.
        return self.config.problem_type or (MULTI if self.config.num_labels == 1 else SINGLE)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: object,
    ) -> AudioClassificationOutput:
        """Predict the labels of each clip and of its frames.

        Args:
            input_features: (B, T, F). Values in padding have no influence, not even NaN and infinity.
            attention_mask: (B, T) of ints or bools, 0 for a padding frame; None without padding.
            labels: (B, L) in [0, 1] for multi-label models, fractions for mixtures of clips; (B,) integers below L for
                single-label models. IGNORE_LABEL (-100) is not scored.
            num_items_in_batch: scored labels in all batches of one step. The Trainer passes it as the divisor of the
                loss.
        """
        states = self.base_model(input_features, attention_mask, output_hidden_states)
        logits, frame_logits = self.head(states.last_hidden_state, frame_mask(attention_mask, input_features))
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.problem_type, num_items_in_batch)
        return AudioClassificationOutput(loss, logits, frame_logits, states.hidden_states)


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    problem_type: str,
    num_items: torch.Tensor | int | None = None,
    positive_weight: float = 1.0,
) -> torch.Tensor:
    """Return the cross entropy of logits (B, L) over the scored labels, divided by their number.

    It is binary for multi-label labels (B, L), categorical for single-label labels (B,). With `num_items`, the scored
    labels in all batches of one step, the losses of these batches add up to the loss of the joint batch.
    `positive_weight` is the weight of a positive label in the binary loss.
    """
    if problem_type == MULTI:
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels.shape={tuple(labels.shape)}: must be (B, L) = {tuple(logits.shape)} for {MULTI}. Give a "
                "number from 0 to 1 per label."
            )
        scored = labels != IGNORE_LABEL
        targets = labels.to(logits.dtype).masked_fill(~scored, 0.0)
        weight = logits.new_tensor(positive_weight)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weight)
        total = losses.masked_fill(~scored, 0.0).sum()
    else:
        if labels.shape != logits.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"labels.shape={tuple(labels.shape)}, dtype {labels.dtype}: must be (B,) = {tuple(logits.shape[:1])} "
                f"integers for {SINGLE}. For labels (B, L) set problem_type={MULTI!r}."
            )
        scored = labels != IGNORE_LABEL
        total = F.cross_entropy(logits, labels.long(), ignore_index=int(IGNORE_LABEL), reduction="sum")
    count = scored.sum() if num_items is None else torch.as_tensor(num_items, device=total.device)
    return total / count.clamp_min(1)
