"""What all models that name the sounds of a clip do alike: a logit a frame and label, pooled over the clip, scored.

A clip's logits are made of its frames' logits, so a model that learnt from labels of whole clips also says where.
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
    """What a model that names sounds returns.

    Args:
        loss: scalar, when labels were given.
        logits: (B, L), of the whole clip; 0 for a clip that is nothing but padding.
        frame_logits: (B, T, L), of each frame; 0 in padding. Of labels that do not exclude each other, their sigmoid
            says how likely the label is there, where the pooling looked.
        hidden_states: the backbone's input and the output of each block, (B, T, C) each, when asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    frame_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class PooledHead(nn.Module):
    """States to a logit a frame and label, and those to one a clip and label, in float32 or better.

        states --+-- 1x1 -- frame logits --(*)-- sum over frames -- logits
                 |                          |
                 +-- 1x1 -- softmax over valid frames (a weight a frame and label)

    That is pooling by "attention". It has a new model look at all frames alike, and then learns where to look; "max"
    and "mean" have nothing to learn. A maximum trains one frame of a clip at a time, a mean asks for the sound in all.
    """

    def __init__(self, num_channels: int, num_labels: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.classifier = nn.Linear(num_channels, num_labels)
        self.attention = None
        if pooling == "attention":
            self.attention = nn.Linear(num_channels, num_labels, bias=False)  # a bias would cancel in the softmax
            self.attention.init_gain = 0.0

    def forward(self, states: torch.Tensor, valid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """states (B, T, C) and valid (B, T, 1) or None -> logits (B, L) and frame logits (B, T, L)."""
        frame_logits = mask_frames(at_least_float32(self.classifier(states)), valid)
        lowest = torch.finfo(frame_logits.dtype).min  # of which a softmax makes 0; finite, for clips without a frame
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
    """A backbone with a linear map a frame to labels, and a pooling of frames over the clip."""

    def __init__(self, config: SignalConfig, backbone: SignalBackbone, state_size: int) -> None:
        super().__init__(config)
        if config.problem_type not in (None, MULTI, SINGLE):
            raise ValueError(
                f"{type(config).__name__}: problem_type={config.problem_type!r} is not for labels; take {MULTI!r} "
                f"(labels that do not exclude each other, also a single one) or {SINGLE!r}"
            )
        setattr(self, self.base_model_prefix, backbone)
        self.head = PooledHead(state_size, config.num_labels, config.pooling)
        self.post_init()

    @property
    def problem_type(self) -> str:
        """The config's; where it has none, one label is there or not, and of several a clip has one.

        (In other models of transformers, one label without a problem type means regression.)
        """
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
        """Say which sounds each clip holds, and where.

        Args:
            input_features: (B, T, F); what stands in padding has no influence, NaN and infinity included.
            attention_mask: (B, T) of ints or bools, 0 where a frame is padding; None when none is.
            labels: (B, L) numbers of 0 to 1, of which a mixture of clips may have any, for labels that do not exclude
                each other; (B,) whole numbers below L where a clip has one label. IGNORE_LABEL (-100) is not scored.
            num_items_in_batch: scored labels in all batches of one step, by which the Trainer asks to divide.
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
    """Cross entropy of logits (B, L) over the scored labels, divided by how many there are.

    Binary for labels (B, L) that do not exclude each other, over all labels for (B,). With `num_items`, the count over
    all batches of a step, the parts of a split batch add up to the whole. `positive_weight` is that of a label that is
    there, where labels do not exclude each other.
    """
    if problem_type == MULTI:
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels.shape = {tuple(labels.shape)} must be (B, L) = {tuple(logits.shape)} for {MULTI}: a number "
                "of 0 to 1 a label"
            )
        scored = labels != IGNORE_LABEL
        wanted = labels.to(logits.dtype).masked_fill(~scored, 0.0)
        weight = logits.new_tensor(positive_weight)
        each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none", pos_weight=weight)
        total = each.masked_fill(~scored, 0.0).sum()
    else:
        if labels.shape != logits.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} and {labels.dtype} must be (B,) = {tuple(logits.shape[:1])} "
                f"whole numbers for {SINGLE}; for labels (B, L) set problem_type={MULTI!r}"
            )
        scored = labels != IGNORE_LABEL
        total = F.cross_entropy(logits, labels.long(), ignore_index=int(IGNORE_LABEL), reduction="sum")
    count = scored.sum() if num_items is None else torch.as_tensor(num_items, device=total.device)
    return total / count.clamp_min(1)
