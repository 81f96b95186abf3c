"""Correlation as a distance (DIST)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pearson_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 - Pearson correlation along the last axis, mean over the others; 0-d (DIST)."""
    left = first - first.mean(-1, keepdim=True)
    right = second - second.mean(-1, keepdim=True)
    return (1.0 - F.cosine_similarity(left, right, dim=-1, eps=1e-8)).mean()
