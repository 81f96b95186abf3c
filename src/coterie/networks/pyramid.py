"""FRSKD's auxiliary teacher: a feature pyramid over the student's stages, fused top-down and bottom-up. Never exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.networks.fusion import FeatureShape, channels_of
from coterie.networks.projection import as_grid


class _Fuse(nn.Module):
    """Positive weighted mean of maps, then a depthwise-separable convolution (BiFPN)."""

    def __init__(self, inputs: int, channels: int, depth: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        shares = torch.relu(self.weights)
        shares = shares / (shares.sum() + 1e-4)
        return self.layers(torch.stack([share * each for share, each in zip(shares, maps, strict=True)]).sum(0))


class FeaturePyramid(nn.Module):
    """Computes refined maps of every stage, and logits from the last of them.

    Args:
        shapes: (C, H, W) or (N, C) of the stages, from the input to the output.
        num_classes: K.
        channels: width of the pyramid, 256 (``BiFPN`` of FRSKD's code; its ``BiFPNc``, for CIFAR, has twice each stage's own channels).
        depth: convolutions in each node, 2 (code).

    Source: FRSKD (Ji et al., CVPR 2021), its code's BiFPN-like self-teacher, in outline.
    """

    def __init__(self, shapes: Sequence[FeatureShape], num_classes: int, channels: int = 256, depth: int = 2) -> None:
        super().__init__()
        self.shapes = [tuple(shape) for shape in shapes]
        count = len(shapes)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels_of(shape), channels, 1, bias=False), nn.BatchNorm2d(channels))
            for shape in shapes
        )
        # From the deepest stage towards the input, and back. On the way back the deepest node sees its lateral map and the previous node.
        self.down = nn.ModuleList(_Fuse(2, channels, depth) for _ in range(count - 1))
        self.up = nn.ModuleList(_Fuse(3 if level < count - 1 else 2, channels, depth) for level in range(1, count))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, taps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Returns logits [B, K] and refined maps [B, channels, H_l, W_l] of the stages' maps."""
        maps = [
            lateral(as_grid(tap, shape)) for lateral, tap, shape in zip(self.lateral, taps, self.shapes, strict=True)
        ]
        last = len(maps) - 1
        down = list(maps)
        for level in reversed(range(last)):
            above = F.interpolate(down[level + 1], maps[level].shape[2:], mode="nearest")
            down[level] = self.down[level]([maps[level], above])
        refined = [down[0]]
        for level in range(1, last + 1):
            below = F.adaptive_avg_pool2d(refined[-1], (maps[level].shape[2], maps[level].shape[3]))
            sources = [maps[level], down[level], below] if level < last else [maps[level], below]
            refined.append(self.up[level - 1](sources))
        return self.classifier(refined[-1].mean((2, 3))), refined
