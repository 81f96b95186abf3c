"""Heads that predict teachers' hidden states from the student's last one, as DistilHuBERT has them; they serve training only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PredictionHeads(nn.Module):
    """N heads on the same frames: a linear layer and GELU for each, and a linear layer of its own for each (s3prl's ``SplitLinear``).

    Args:
        width: of the student's frames, D; each head is as wide inside.
        count: N.
        size: of what each head predicts, K.
    """

    def __init__(self, width: int, count: int, size: int) -> None:
        super().__init__()
        self.count, self.width = count, width
        self.inner = nn.Linear(width, width * count)
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(count, width, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, 1, 1, size).uniform_(-bound, bound))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [B, T, D] to predictions [N, B, T, K]."""
        batch, length, _ = frames.shape
        inner = F.gelu(self.inner(frames)).view(batch * length, self.count, self.width).transpose(0, 1)
        found = torch.bmm(inner, self.weight.to(inner.dtype)).view(self.count, batch, length, -1)
        return found + self.bias.to(found.dtype)
