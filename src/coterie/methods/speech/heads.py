"""Training-only heads that predict teachers' hidden states from the student's last one, as in DistilHuBERT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PredictionHeads(nn.Module):
    """N heads on the same frames, each with its own linear layer, GELU and second linear layer (s3prl's ``SplitLinear``).

    Args:
        width: width of the student's frames, D; also each head's hidden width.
        count: number of heads, N.
        size: width of each head's prediction, K.
    """

    def __init__(self, width: int, count: int, size: int) -> None:
        super().__init__()
        self.count, self.width = count, width
        self.inner = nn.Linear(width, width * count)
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(count, width, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, 1, 1, size).uniform_(-bound, bound))

    def forward(self, frames: Tensor) -> Tensor:
        """Maps frames [B, T, D] to predictions [N, B, T, K]."""
        batch, length, _ = frames.shape
        inner = F.gelu(self.inner(frames)).view(batch * length, self.count, self.width).transpose(0, 1)
        found = torch.bmm(inner, self.weight.to(inner.dtype)).view(self.count, batch, length, -1)
        return found + self.bias.to(found.dtype)
