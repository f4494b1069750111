"""Models by others, with our head and loss, for comparison."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class PytorchTcn(nn.Module):
    """pytorch-tcn with our head and loss."""

    def __init__(self, features: int, channels: int, blocks: int, kernel: int, dropout: float) -> None:
        from pytorch_tcn import TCN

        super().__init__()
        self.tcn = TCN(features, blocks * [channels], kernel, dropout=dropout, causal=False, use_norm="weight_norm")
        self.head = nn.Linear(channels, 1)

    def forward(self, input_features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss on features (B, T, F) and labels (B, T, 1)."""
        return F.mse_loss(self.head(self.tcn(input_features.transpose(1, 2)).transpose(1, 2)), labels)


class TextbookLayer(nn.Module):
    """A filter and a gate convolution, and two 1x1 projections, on (B, C, T)."""

    def __init__(self, channels: int, skip_channels: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        padding = (kernel - 1) * dilation // 2
        self.filter = weight_norm(nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding))
        self.gate = weight_norm(nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding))
        self.dropout = nn.Dropout(dropout)
        self.residual = nn.Conv1d(channels, channels, 1)
        self.skip = nn.Conv1d(channels, skip_channels, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the input of the next layer and the skip, (B, C, T) each."""
        out = self.dropout(torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x)))
        return (x + self.residual(out)) * math.sqrt(0.5), self.skip(out)


class TextbookWavenet(nn.Module):
    """A WaveNet as in the paper's figure: skips are stacked, then summed."""

    def __init__(
        self, features: int, channels: int, skip_channels: int, stacks: int, layers: int, kernel: int, dropout: float
    ) -> None:
        super().__init__()
        self.input = nn.Conv1d(features, channels, 1)
        self.layers = nn.ModuleList(
            TextbookLayer(channels, skip_channels, kernel, 2**i, dropout) for _ in range(stacks) for i in range(layers)
        )
        self.output = nn.Sequential(
            nn.ReLU(), nn.Conv1d(skip_channels, skip_channels, 1), nn.ReLU(), nn.Conv1d(skip_channels, 1, 1)
        )

    def forward(self, input_features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss on features (B, T, F) and labels (B, T, 1)."""
        x, skips = self.input(input_features.transpose(1, 2)), []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        out = self.output(torch.stack(skips).sum(0) / math.sqrt(len(skips)))
        return F.mse_loss(out.transpose(1, 2), labels)
