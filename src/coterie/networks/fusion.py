"""Modules that look at all students' feature maps at once. They serve training and are never exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.errors import CoterieError

FusionKind = Literal["1x1", "depthwise", "sum"]
FeatureShape = tuple[int, ...]  # (C, H, W), or (N, C) for tokens


def _channels(shape: FeatureShape) -> int:
    return shape[0] if len(shape) == 3 else shape[-1]


class FeatureFusion(nn.Module):
    """OKDMDE's Feature Fusion Module: the students' last feature maps to attention scores over the students.

    V = ReLU(BN(fuse(F_1, ..., F_n))), s = mean of V over positions, e = ReLU(W_1 s), scores = W_2 e. W_2 and its bias start
    at zero, so that training starts from equal attention.

    Maps of different height and width are averaged to the smallest; where some students have maps and others tokens, each
    is averaged over its positions first.

    Args:
        feature_shapes: (C, H, W) or (N, C) of each student's map, without the batch.
        outputs: number of scores; None: the layer W_2 is left out, and e is returned.
        kind: ``1x1`` concatenates the maps and mixes them by a 1x1 convolution; ``depthwise`` has a depthwise 3x3 convolution
            before it (the fusion of FFL and FFSD); ``sum`` adds the maps, each through a 1x1 convolution of its own where
            their channels differ.
        max_width: the fused map has min(C, max_width) channels.
        reduction: e has 1/reduction of the width, at least 8.

    Source: reconstruction; the paper's abstract says "rich semantic information contained in the last block of multiple
    student models", the layers are ours (specified after FFL, FFSD and OKDHP).
    """

    def __init__(
        self,
        feature_shapes: Sequence[FeatureShape],
        outputs: int | None,
        kind: FusionKind = "1x1",
        max_width: int = 256,
        reduction: int = 8,
    ) -> None:
        super().__init__()
        channels = [_channels(shape) for shape in feature_shapes]
        width = min(max(channels), max_width)
        mixed = len({len(shape) for shape in feature_shapes}) > 1
        tokens = len(feature_shapes[0]) == 2
        if kind == "depthwise" and (mixed or tokens):
            raise CoterieError(
                "fusion='depthwise' convolves neighbouring positions and needs [C, H, W] feature maps from every student; use fusion='1x1'"
            )
        sizes = [
            (1, 1) if mixed else (shape[0], 1) if len(shape) == 2 else (shape[1], shape[2]) for shape in feature_shapes
        ]
        self.average_positions = mixed
        self.size = None if len(set(sizes)) == 1 else (min(h for h, _ in sizes), min(w for _, w in sizes))
        self.kind = kind
        self.align: nn.ModuleList | None = None
        total = sum(channels)
        if kind == "sum":
            total = max(channels)
            if len(set(channels)) > 1:
                self.align = nn.ModuleList(nn.Conv2d(count, total, 1, bias=False) for count in channels)
        layers: list[nn.Module] = []
        if kind == "depthwise":
            layers += [
                nn.Conv2d(total, total, 3, padding=1, groups=total, bias=False),
                nn.BatchNorm2d(total),
                nn.ReLU(),
            ]
        layers += [nn.Conv2d(total, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.fuse = nn.Sequential(*layers)
        self.width = width
        self.squeeze = nn.Linear(width, max(8, width // reduction))
        self.score: nn.Module = nn.Identity()
        if outputs is not None:
            last = nn.Linear(self.squeeze.out_features, outputs)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.score = last

    def fused(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """The vector s, [B, width], of maps [B, C, H, W] or [B, N, C]."""
        maps = [maps.transpose(1, 2).unsqueeze(-1) if maps.ndim == 3 else maps for maps in feature_maps]
        if self.average_positions:
            maps = [each.mean((2, 3), keepdim=True) for each in maps]
        elif self.size is not None:
            maps = [F.adaptive_avg_pool2d(each, self.size) for each in maps]
        if self.align is not None:
            maps = [project(each) for project, each in zip(self.align, maps, strict=True)]
        joined = torch.stack(maps).sum(0) if self.kind == "sum" else torch.cat(maps, dim=1)
        return self.fuse(joined).mean((2, 3))

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Scores [B, outputs] of the students' feature maps."""
        return self.score(torch.relu(self.squeeze(self.fused(feature_maps))))
