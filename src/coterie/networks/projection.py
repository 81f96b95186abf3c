"""Projects a student's maps to a teacher's shapes. Training only, never exported."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from coterie.networks.fusion import FeatureShape, channels_of


def as_grid(feature_map: Tensor, shape: FeatureShape) -> Tensor:
    """Returns tokens [B, N, C] as a map [B, C, H, W] if they form a square (without class tokens), else [B, C, N, 1]; maps are unchanged.

    Args:
        feature_map: [B, C, H, W] or [B, N, C].
        shape: its shape without the batch.
    """
    if len(shape) == 3:
        return feature_map
    extra, side = grid_of(shape[0])
    if side == 0:
        return feature_map.transpose(1, 2).unsqueeze(-1)
    return feature_map[:, extra:].transpose(1, 2).unflatten(2, (side, side))


def grid_of(tokens: int) -> tuple[int, int]:
    """Returns (prefix tokens, side) if ``tokens`` are a square after 0, 1 or 2 class tokens, or one class token and four registers; side 0 if not."""
    for extra in (0, 1, 2, 5):
        side = math.isqrt(max(0, tokens - extra))
        if side > 1 and side * side == tokens - extra:
            return extra, side
    return 0, 0


class Projector(nn.Module):
    """Projects a student's map to a teacher's channels and brings both to the smaller of the two resolutions.

    Args:
        shape, target: (C, H, W) or (N, C) of student and teacher. Tokens are arranged as the square grid they come from.

    Source: the 1x1 convolution without bias of OFA-KD's FitNet. mdistiller's uses a convolution whose kernel and stride depend on the two sizes (3x3 with
    stride 2, transposed 4x4, or as large as the difference), then BatchNorm and ReLU.
    """

    def __init__(self, shape: FeatureShape, target: FeatureShape) -> None:
        super().__init__()
        self.shape, self.target = tuple(shape), tuple(target)
        own, other = _positions(shape), _positions(target)
        self.size = (min(own[0], other[0]), min(own[1], other[1]))
        self.project = nn.Conv2d(channels_of(shape), channels_of(target), 1, bias=False)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both maps as [B, C_teacher, h, w]."""
        own = self.project(as_grid(student, self.shape))
        other = as_grid(teacher, self.target)
        return _pooled(own, self.size), _pooled(other, self.size)


def _positions(shape: FeatureShape) -> tuple[int, int]:
    if len(shape) == 3:
        return shape[1], shape[2]
    side = grid_of(shape[0])[1]
    return (side, side) if side else (shape[0], 1)


def _pooled(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    return feature_map if tuple(feature_map.shape[2:]) == size else F.adaptive_avg_pool2d(feature_map, size)


def stage_pairs(student: int, teacher: int) -> list[tuple[int, int]]:
    """Pairs the student's stages with the teacher's: the last with the last, and so on towards the input."""
    count = min(student, teacher)
    return [(student - count + number, teacher - count + number) for number in range(count)]
