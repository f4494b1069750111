"""Base of all models that predict a signal frame by frame: scaling, masks, loss, prediction of long recordings."""

# B batch, T frames, F features, C channels

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .configuration_signal import SignalConfig
from .layers import (
    DilatedConv1d,
    SignalHead,
    SignalRegressionOutput,
    frame_mask,
    init_weights,
    mask_frames,
    signal_loss,
)

CHUNK_FRAMES = 2048  # frames predicted at once: 8.5 minutes at 4 Hz


class SignalPreTrainedModel(PreTrainedModel):
    """Initialization, and scaling of the input."""

    config_class: type[SignalConfig]  # set by each model
    main_input_name = "input_features"

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module)
        if isinstance(module, SignalBackbone):
            init.zeros_(module.input_mean)
            init.ones_(module.input_std)

    def set_input_scaling(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Store mean and standard deviation (F,) of the training features with the weights.

        The model then takes features as extracted, and standardizes them.
        """
        backbone = self.base_model
        for name, given, buffer in (("mean", mean, backbone.input_mean), ("std", std, backbone.input_std)):
            given = torch.as_tensor(given, dtype=buffer.dtype)
            if given.shape != buffer.shape or not given.isfinite().all():
                raise ValueError(
                    f"input scaling: {name} has shape {tuple(given.shape)} or is not finite. Give {len(buffer)} "
                    "numbers, one per feature."
                )
            if name == "std" and not (given > 0).all():
                raise ValueError(
                    f"input scaling: std is not above 0 for features {(given <= 0).nonzero().flatten().tolist()}. "
                    "Give 1 for a feature that never changes."
                )
            buffer.copy_(given)


class SignalBackbone(SignalPreTrainedModel):
    """Scaled features to one state per frame, (B, T, F) -> (B, T, C). Models implement `layers_forward`."""

    def __init__(self, config: SignalConfig) -> None:
        super().__init__(config)
        self.register_buffer("input_mean", torch.zeros(config.input_size))
        self.register_buffer("input_std", torch.ones(config.input_size))

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: object,
    ) -> BaseModelOutput:
        """Compute a state for each frame.

        Args:
            input_features: (B, T, F). Values in padding have no influence, not even NaN and infinity.
            attention_mask: (B, T) of ints or bools, 0 for a padding frame; None without padding.
            output_hidden_states: also return the scaled input and every layer's output.
        """
        if input_features.dim() != 3 or input_features.shape[-1] != self.config.input_size:
            raise ValueError(
                f"input_features.shape={tuple(input_features.shape)}: must be (B, T, F) with "
                f"F={self.config.input_size}. Extract features of this size."
            )
        valid = frame_mask(attention_mask, input_features)
        x = mask_frames((input_features - self.input_mean) / self.input_std, valid)
        return_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states = [x] if return_states else None
        x = self.layers_forward(x, valid, hidden_states)
        return BaseModelOutput(last_hidden_state=x, hidden_states=tuple(hidden_states) if return_states else None)

    def layers_forward(
        self, x: torch.Tensor, valid: torch.Tensor | None, hidden_states: list[torch.Tensor] | None
    ) -> torch.Tensor:
        """Map x (B, T, F), zero in padding, to states (B, T, C). Append each layer's output to `hidden_states`."""
        raise NotImplementedError


class SignalRegressionModel(SignalPreTrainedModel):
    """A backbone with a linear map per frame to the signal, for example from audio to skin conductance."""

    def __init__(self, config: SignalConfig, backbone: SignalBackbone, state_size: int) -> None:
        super().__init__(config)
        setattr(self, self.base_model_prefix, backbone)
        self.head = SignalHead(state_size, config.output_size, config.gaussian_head)
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: object,
    ) -> SignalRegressionOutput:
        """Predict the signal at each frame.

        Args:
            input_features: (B, T, F). Values in padding have no influence, not even NaN and infinity.
            attention_mask: (B, T) of ints or bools, 0 for a padding frame; None without padding.
            labels: (B, T) or (B, T, output_size) in the target's unit; IGNORE_LABEL (-100) is not scored.
            num_items_in_batch: scored values in all batches of one step. The Trainer passes it as the divisor of the
                loss.
        """
        states = self.base_model(input_features, attention_mask, output_hidden_states)
        valid = frame_mask(attention_mask, input_features)
        predictions, log_variance = self.head(states.last_hidden_state, valid)
        loss = None
        if labels is not None:
            loss = signal_loss(
                predictions,
                labels,
                self.config.loss,
                valid,
                log_variance,
                self.config.huber_delta,
                num_items_in_batch,
            )
        return SignalRegressionOutput(loss, predictions, log_variance, states.hidden_states)

    @torch.no_grad()
    def predict(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        chunk_frames: int = CHUNK_FRAMES,
    ) -> SignalRegressionOutput:
        """Predict like `forward`, up to rounding, in chunks, so that memory does not grow with T."""
        # Each chunk is computed with all frames that it depends on (`config.context`). Its outputs then equal those of
        # one pass: layers see other values only where these outputs do not depend on them.
        frames = input_features.shape[1]
        before, after = self.config.context
        parts = []
        for start in range(0, frames, chunk_frames):
            stop = min(start + chunk_frames, frames)
            first, last = max(start - before, 0), min(stop + after, frames)
            mask = None if attention_mask is None else attention_mask[:, first:last]
            parts.append(_cut(self(input_features[:, first:last], mask), start - first, stop - first))
        return _join(parts)

    @torch.no_grad()
    def predict_blocks(
        self, blocks: Iterable[torch.Tensor], chunk_frames: int = CHUNK_FRAMES
    ) -> Iterator[SignalRegressionOutput]:
        """Predict like `predict` for a recording that comes in blocks (B, t, F) of any length.

        Yield chunks as soon as they are final. Holds one chunk and its context in memory.
        """
        before, after = self.config.context
        frames, past = None, 0  # frames that are still needed, and how many of them are already predicted
        for block in blocks:
            frames = block if frames is None else torch.cat([frames, block], 1)
            while frames.shape[1] - past >= chunk_frames + after:
                yield _cut(self(frames[:, : past + chunk_frames + after]), past, past + chunk_frames)
                gone = max(past + chunk_frames - before, 0)
                frames, past = frames[:, gone:], past + chunk_frames - gone
        if frames is not None and frames.shape[1] > past:
            yield _cut(self(frames), past, frames.shape[1])

    @torch.no_grad()
    def step(
        self, input_features: torch.Tensor, state: list[torch.Tensor] | None = None
    ) -> tuple[SignalRegressionOutput, list[torch.Tensor]]:
        """Predict the next frames of running recordings with a causal model, equal to one pass up to rounding.

        Args:
            input_features: (B, t, F), one or more new frames of each recording.
            state: the state from the last step; None for the first. It holds each convolution's last inputs,
                (B, (kernel_size - 1) * dilation, C_in).
        """
        if not self.config.causal:
            raise ValueError(
                f"causal=False: step needs a causal model, {type(self).__name__} looks {self.config.context[1]} "
                "frames ahead. Train with model_config.causal true, or use predict."
            )
        convolutions = [module for module in self.modules() if isinstance(module, DilatedConv1d)]
        if state is None:
            state = [input_features.new_zeros(len(input_features), c.reach, c.in_channels) for c in convolutions]
        try:
            for convolution, past in zip(convolutions, state, strict=True):
                convolution.past = past
            output = self(input_features)
            return output, [convolution.past for convolution in convolutions]
        finally:
            # The state belongs to the caller. `forward` must not see it, even after an error.
            for convolution in convolutions:
                convolution.past = None


def _cut(output: SignalRegressionOutput, start: int, stop: int) -> SignalRegressionOutput:
    """Return a range of frames of the predictions. Copies, so that the full output can be freed."""
    variance = output.log_variance
    return SignalRegressionOutput(
        predictions=output.predictions[:, start:stop].clone(),
        log_variance=None if variance is None else variance[:, start:stop].clone(),
    )


def _join(parts: list[SignalRegressionOutput]) -> SignalRegressionOutput:
    variances = [part.log_variance for part in parts]
    return SignalRegressionOutput(
        predictions=torch.cat([part.predictions for part in parts], 1),
        log_variance=None if variances[0] is None else torch.cat(variances, 1),
    )
