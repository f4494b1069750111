"""Dropout for the sequence models, alone or fused with a ReLU or a gated unit."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from .layers import mask_frames


def _keep(like: torch.Tensor, dropped: int) -> torch.Tensor:
    """Draw ones with probability 1 - dropped / 256, zeros otherwise: uint8, shaped like `like`, on the CPU."""
    # Each 64-bit draw gives eight random bytes. This takes a tenth of the time of Bernoulli draws. It uses torch's
    # global CPU generator, whose state is saved in checkpoints.
    count = like.numel()
    random_bits = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    return random_bits.view(torch.uint8)[:count].view(like.shape).ge_(dropped)


class _Dropout(torch.autograd.Function):
    """Dropout that saves one byte per element for the backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, dropped: int) -> torch.Tensor:
        keep = _keep(x, dropped)
        ctx.save_for_backward(keep)
        ctx.scale = 256 / (256 - dropped)
        return (x * keep).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(ctx.scale), None


class _ReluDropout(torch.autograd.Function):
    """ReLU and dropout without its scale, in place.

    The output is positive exactly where both passed a value, so the backward pass needs no saved mask.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, dropped: int, valid: torch.Tensor | None
    ) -> torch.Tensor:
        keep = _keep(x, dropped)
        if valid is not None:
            keep.mul_(valid)
        out = x.detach().relu_().mul_(keep)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, out, 0), None, None


class _GatedUnit(torch.autograd.Function):
    """tanh(filter) * sigmoid(gate) and dropout, in place.

    The convolution before it does not need its output for the backward pass, so this may overwrite it. The backward
    pass writes both gradients into one tensor, without a copy.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, dropped: int) -> torch.Tensor:
        x = x.detach()
        filtered, gate = x.chunk(2, -1)
        out = filtered.tanh_() * gate.sigmoid_()
        keep = _keep(out, dropped) if dropped else None
        ctx.save_for_backward(x, keep)
        ctx.scale = 256 / (256 - dropped)
        return out if keep is None else out.mul_(keep).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, keep = ctx.saved_tensors
        filtered, gate = x.chunk(2, -1)
        if keep is not None:
            grad = (grad * keep).mul_(ctx.scale)
        grad_x = torch.empty_like(x)
        to_filter, to_gate = grad_x.chunk(2, -1)
        torch.mul(grad, gate, out=to_filter)
        torch.mul(to_filter, filtered, out=to_gate)
        to_filter.addcmul_(to_gate, filtered, value=-1)  # gate (1 - filtered^2), as tanh' = 1 - tanh^2
        to_gate.addcmul_(to_gate, gate, value=-1)  # filtered gate (1 - gate), as sigmoid' = sigmoid (1 - sigmoid)
        return grad_x, None


class Dropout(nn.Module):
    """Inverted dropout, alone or fused with the ReLU before it or with a gated unit.

    On the CPU outside `torch.compile` it compares random bytes, so the probability is rounded to steps of 1/256 (from
    1/256 to 255/256). The scale uses the rounded value, so the output is unbiased. Elsewhere it is `F.dropout`.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.dropped = min(max(round(256 * probability), 1), 255)  # number of byte values, out of 256, that drop

    def by_bytes(self, x: torch.Tensor) -> bool:
        """Return whether dropout of x compares random bytes."""
        return self.training and self.probability > 0 and x.device.type == "cpu" and not torch.compiler.is_compiling()

    def gain(self, x: torch.Tensor) -> float:
        """Return the factor for the layer before `relu_`. Dropout's scale commutes with the ReLU."""
        return 256 / (256 - self.dropped) if self.by_bytes(x) else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply dropout to x of any shape."""
        if self.by_bytes(x):
            return _Dropout.apply(x, self.dropped)
        return F.dropout(x, self.probability, self.training)

    def relu_(self, x: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Apply ReLU and dropout to x (B, T, C), already multiplied by `gain`; zeros in padding. Overwrites x."""
        if self.by_bytes(x):
            return _ReluDropout.apply(x, self.dropped, valid)
        return mask_frames(F.dropout(F.relu(x), self.probability, self.training), valid)

    def gated_(self, x: torch.Tensor) -> torch.Tensor:
        """Return dropout of tanh(filter) * sigmoid(gate) for x (B, T, 2C), filter first. Overwrites x."""
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            return _GatedUnit.apply(x, self.dropped if self.by_bytes(x) else 0)
        filtered, gate = x.chunk(2, -1)
        return F.dropout(filtered.tanh() * gate.sigmoid(), self.probability, self.training)
