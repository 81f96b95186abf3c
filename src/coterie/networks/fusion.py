"""Modules that fuse the feature maps of all students. Training only, never exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.errors import CoterieError

FusionKind = Literal["1x1", "depthwise", "sum"]
FeatureShape = tuple[int, ...]  # (C, H, W), or (N, C) for tokens


def channels_of(shape: FeatureShape) -> int:
    """Returns the channels of (C, H, W) or (N, C)."""
    return shape[0] if len(shape) == 3 else shape[-1]


class MapFusion(nn.Module):
    """Fuses the maps of several students into one: V = ReLU(BN(fuse(F_1, ..., F_n))).

    Maps of different height and width are average-pooled to the smallest. If some students have maps and others tokens, each is first averaged over its
    positions.

    Args:
        feature_shapes: (C, H, W) or (N, C) of each student's map, without the batch.
        kind: ``1x1`` concatenates the maps and applies a 1x1 convolution; ``depthwise`` adds a depthwise 3x3 convolution before it (FFL and FFSD); ``sum`` adds
            the maps, each through its own 1x1 convolution if their channels differ.
        max_width: V has min(C, max_width) channels; None: C, the largest number of channels among the students.

    Raises:
        CoterieError: ``depthwise`` without neighbouring positions (tokens).
    """

    def __init__(
        self, feature_shapes: Sequence[FeatureShape], kind: FusionKind = "1x1", max_width: int | None = None
    ) -> None:
        super().__init__()
        channels = [channels_of(shape) for shape in feature_shapes]
        width = min(max(channels), max_width or max(channels))
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
        self.out_size = (min(height for height, _ in sizes), min(width for _, width in sizes))
        self.size = None if len(set(sizes)) == 1 else self.out_size
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

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Returns V, [B, width, H, W] (tokens along H), of maps [B, C, H, W] or [B, N, C]."""
        maps = [maps.transpose(1, 2).unsqueeze(-1) if maps.ndim == 3 else maps for maps in feature_maps]
        if self.average_positions:
            maps = [each.mean((2, 3), keepdim=True) for each in maps]
        elif self.size is not None:
            maps = [F.adaptive_avg_pool2d(each, self.size) for each in maps]
        if self.align is not None:
            maps = [project(each) for project, each in zip(self.align, maps, strict=True)]
        joined = torch.stack(maps).sum(0) if self.kind == "sum" else torch.cat(maps, dim=1)
        return self.fuse(joined)


class FusedClassifier(nn.Module):
    """FFL's fusion module: a classifier on the pooled fused map.

    Args:
        feature_shapes: as in :class:`MapFusion`.
        num_classes: K.
        kind: as in :class:`MapFusion`; None: ``depthwise``, as in FFL and FFSD, or ``1x1`` if students have tokens.

    Source: FFL (Kim et al., 2019), its code: depthwise 3x3 and 1x1 convolutions on the concatenated maps, C channels.
    """

    def __init__(
        self, feature_shapes: Sequence[FeatureShape], num_classes: int, kind: FusionKind | None = None
    ) -> None:
        super().__init__()
        maps = all(len(shape) == 3 for shape in feature_shapes)
        self.fusion = MapFusion(feature_shapes, kind or ("depthwise" if maps else "1x1"))
        self.classifier = nn.Linear(self.fusion.width, num_classes)

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns logits [B, K] and the fused map [B, C, H, W]."""
        fused = self.fusion(feature_maps)
        return self.classifier(fused.mean((2, 3))), fused


class FeatureFusion(nn.Module):
    """OKDMDE's Feature Fusion Module: maps the students' last feature maps to attention scores over the students.

    V = the maps' :class:`MapFusion`, s = mean of V over positions, e = ReLU(W_1 s), scores = W_2 e. W_2 and its bias start
    at zero, so that training starts from equal attention.

    Args:
        feature_shapes, kind, max_width: as in :class:`MapFusion`.
        outputs: number of scores; None: the layer W_2 is omitted and e is returned.
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
        self.fusion = MapFusion(feature_shapes, kind, max_width)
        self.squeeze = nn.Linear(self.fusion.width, max(8, self.fusion.width // reduction))
        self.score: nn.Module = nn.Identity()
        if outputs is not None:
            last = nn.Linear(self.squeeze.out_features, outputs)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.score = last

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Returns scores [B, outputs] of the students' feature maps."""
        return self.score(torch.relu(self.squeeze(self.fusion(feature_maps).mean((2, 3)))))
