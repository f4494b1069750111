"""What all models that predict a signal, frame by frame, do alike: scale, mask, score, go through long recordings."""

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
    """Initialisation, and scaling of the input."""

    config_class: type[SignalConfig]  # each model names its own
    main_input_name = "input_features"

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module)
        if isinstance(module, SignalBackbone):
            init.zeros_(module.input_mean)
            init.ones_(module.input_std)

    def set_input_scaling(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Keep the training set's mean and standard deviation of each feature, (F,) each, with the weights.

        Inputs then come as they were extracted: the model subtracts the one and divides by the other.
        """
        backbone = self.base_model
        for name, given, buffer in (("mean", mean, backbone.input_mean), ("std", std, backbone.input_std)):
            given = torch.as_tensor(given, dtype=buffer.dtype)
            if given.shape != buffer.shape or not given.isfinite().all():
                raise ValueError(
                    f"input scaling: {name} of shape {tuple(given.shape)} must hold {len(buffer)} finite numbers, "
                    "one a feature"
                )
            if name == "std" and not (given > 0).all():
                raise ValueError(
                    f"input scaling: std is not above 0 for features {(given <= 0).nonzero().flatten().tolist()}; "
                    "give 1 for a feature that never changes"
                )
            buffer.copy_(given)


class SignalBackbone(SignalPreTrainedModel):
    """Scaled features to a state a frame, (B, T, F) -> (B, T, C); a model says in `layers_forward` how."""

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
            input_features: (B, T, F); what stands in padding has no influence, NaN and infinity included.
            attention_mask: (B, T) of ints or bools, 0 where a frame is padding; None when none is.
            output_hidden_states: return the scaled input and every layer's output too.
        """
        if input_features.dim() != 3 or input_features.shape[-1] != self.config.input_size:
            raise ValueError(
                f"input_features.shape = {tuple(input_features.shape)} must be (B, T, F) with F = "
                f"config.input_size = {self.config.input_size}"
            )
        valid = frame_mask(attention_mask, input_features)
        x = mask_frames((input_features - self.input_mean) / self.input_std, valid)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states = [x] if wanted else None
        x = self.layers_forward(x, valid, hidden_states)
        return BaseModelOutput(last_hidden_state=x, hidden_states=tuple(hidden_states) if wanted else None)

    def layers_forward(
        self, x: torch.Tensor, valid: torch.Tensor | None, hidden_states: list[torch.Tensor] | None
    ) -> torch.Tensor:
        """The layers: x (B, T, F), zero in padding, to states (B, T, C); appends each layer's output if asked to."""
        raise NotImplementedError


class SignalRegressionModel(SignalPreTrainedModel):
    """A backbone with a linear map a frame to the signal: skin conductance from sound, for one."""

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
            input_features: (B, T, F); what stands in padding has no influence, NaN and infinity included.
            attention_mask: (B, T) of ints or bools, 0 where a frame is padding; None when none is.
            labels: (B, T) or (B, T, output_size) in the target's unit; IGNORE_LABEL (-100) is not scored.
            num_items_in_batch: scored numbers in all batches of one step, by which the Trainer asks to divide.
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
        """What `forward` predicts, to rounding, in chunks: memory beyond input and output does not grow with T.

        A chunk is computed with all the frames beside it that it depends on (`config.context`). Layers then meet other
        numbers than in one pass only where none of the chunk's own outputs looks.
        """
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
        """`predict` for a recording that comes in blocks (B, t, F) of any length and leaves in chunks, once final.

        Holds a chunk and its context, however long the recording is.
        """
        before, after = self.config.context
        held, past = None, 0  # frames that are still needed, and how many of them are predicted already
        for block in blocks:
            held = block if held is None else torch.cat([held, block], 1)
            while held.shape[1] - past >= chunk_frames + after:
                yield _cut(self(held[:, : past + chunk_frames + after]), past, past + chunk_frames)
                gone = max(past + chunk_frames - before, 0)
                held, past = held[:, gone:], past + chunk_frames - gone
        if held is not None and held.shape[1] > past:
            yield _cut(self(held), past, held.shape[1])

    @torch.no_grad()
    def step(
        self, input_features: torch.Tensor, state: list[torch.Tensor] | None = None
    ) -> tuple[SignalRegressionOutput, list[torch.Tensor]]:
        """Predict the next frames of running recordings, for a causal model: the whole pass's numbers, to rounding.

        Args:
            input_features: (B, t, F), one or more new frames of each recording.
            state: what the last step returned; None at the beginning. Each convolution's last inputs,
                (B, (kernel_size - 1) * dilation, C_in).
        """
        if not self.config.causal:
            raise ValueError(
                f"{type(self).__name__}.step needs a causal model: this one looks {self.config.context[1]} frames "
                "ahead; train with model_config.causal true, or use predict"
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
            for convolution in convolutions:
                convolution.past = None


def _cut(output: SignalRegressionOutput, start: int, stop: int) -> SignalRegressionOutput:
    """Some frames of the predictions, copied, so that the rest can go."""
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
