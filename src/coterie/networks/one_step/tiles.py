"""Processes images of any size in overlapping, blended tiles, so that memory does not grow with the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coterie.errors import CoterieError


def in_tiles(
    restore: Callable[[Tensor], Tensor], low: Tensor, scale: int, tile: int = 512, overlap: int = 64
) -> Tensor:
    """Upscales an image tile by tile.

    Args:
        restore: maps small images [B, 3, h, w] to large ones [B, 3, s h, s w].
        low: one small image [1, 3, H, W].
        scale: s.
        tile: side of a tile in large pixels.
        overlap: large pixels that neighbouring tiles share and over which they are blended.

    Returns:
        [1, 3, s H, s W]. An image that fits into a tile is restored whole.

    Raises:
        CoterieError: an overlap above half of the tile, or more than one image.
    """
    if len(low) != 1:
        raise CoterieError(f"tiles are of one image, got {len(low)}")
    if not 0 <= 2 * overlap <= tile or tile < scale:
        raise CoterieError(f"tile={tile}, overlap={overlap}: expected an overlap of 0 to half of the tile")
    size, shared = tile // scale, -(-overlap // scale)
    height, width = low.shape[-2:]
    if max(height, width) <= size:
        return restore(low)
    total = torch.zeros(1, 3, height * scale, width * scale, device=low.device)
    weight = torch.zeros(1, 1, height * scale, width * scale, device=low.device)
    for top in _starts(height, size, shared):
        for left in _starts(width, size, shared):
            part = restore(low[..., top : top + size, left : left + size]).float()
            share = _fading(part.shape[-2], shared * scale, low.device)[:, None] * _fading(
                part.shape[-1], shared * scale, low.device
            )
            place = (
                ...,
                slice(top * scale, top * scale + part.shape[-2]),
                slice(left * scale, left * scale + part.shape[-1]),
            )
            total[place] += part * share
            weight[place] += share
    return total / weight


def _starts(length: int, size: int, shared: int) -> list[int]:
    """Returns evenly spaced tile offsets such that neighbours share at least ``shared``."""
    if length <= size:
        return [0]
    step = max(1, size - shared)
    count = -(-(length - size) // step)
    return [round(number * (length - size) / count) for number in range(count + 1)]


def _fading(length: int, shared: int, device: torch.device) -> Tensor:
    """Blending weights of a tile's rows, which rise from the border over the shared part and are never 0."""
    distance = torch.arange(length, device=device, dtype=torch.float32)
    distance = torch.minimum(distance, distance.flip(0)) + 0.5
    return (distance / max(shared, 1)).clamp(max=1.0)
