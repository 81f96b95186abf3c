"""Spatial attention of feature maps, and FFSD's shifted variant."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spatial_attention(feature_map: Tensor) -> Tensor:
    """Mean of the squared channels at each position, as a vector of length 1.

    Args:
        feature_map: [B, C, H, W] or [B, N, C].

    Returns:
        float32 [B, H*W] or [B, N].

    Source: Zagoruyko and Komodakis, 2017 (attention transfer); FFSD's code.
    """
    energy = feature_map.float().square().mean(1 if feature_map.ndim == 4 else 2).flatten(1)
    return F.normalize(energy, dim=1)


def shifted_attention(attention: Tensor) -> Tensor:
    """Shifts attention to positions where it was weak: positions above the lowest third become norm - a, the others are unchanged.

    Args:
        attention: [B, P], vectors of length 1.

    Returns:
        [B, P].

    Source: FFSD's code, which takes the norm before it normalises the map and so mixes scales; here both have the same scale.
    """
    positions = attention.shape[1]
    lowest = max(1, positions // 3)
    threshold = attention.kthvalue(lowest, dim=1, keepdim=True).values
    norm = attention.norm(dim=1, keepdim=True)
    return torch.where(attention > threshold, norm - attention, attention)
