"""Exit branches: from the end of a stage to features and logits. Training only, never exported."""

from __future__ import annotations

import math

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from coterie.networks.fusion import FeatureShape
from coterie.networks.projection import grid_of

TOKEN_GRID = 7  # side length to which OFA-KD's token branches merge


class SeparableDownsampling(nn.Module):
    """Halves the resolution with two depthwise-separable convolutions (OFA-KD's SepConv).

    Args:
        channels, width: channels of the input and of the output.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()

        def pair(stride: int, out: int) -> list[nn.Module]:
            return [
                nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
                nn.Conv2d(channels, out, 1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]

        self.layers = nn.Sequential(*pair(2, channels), *pair(1, width))

    def forward(self, feature_map: Tensor) -> Tensor:
        """[B, C, H, W] to [B, width, ceil(H/2), ceil(W/2)]."""
        result: Tensor = self.layers(feature_map)
        return result


class MapExit(nn.Module):
    """Exit branch from a map to pooled features [B, width] and logits [B, K].

    Args:
        channels: channels of the map.
        remaining: number of stages that follow; the exit halves the resolution as often, doubling the channels, the last time to ``width``; 0: a 1x1
            convolution.
        width: width of the features.
        num_classes: K.

    Source: OFA-KD's code, exit branch for a CNN.
    """

    def __init__(self, channels: int, remaining: int, width: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(remaining):
            wider = width if number == remaining - 1 else 2 * channels
            layers.append(SeparableDownsampling(channels, wider))
            channels = wider
        self.layers = nn.Sequential(*layers) if layers else nn.Conv2d(channels, width, 1)
        self.classifier = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        _initialise(self.classifier)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [B, K] and features [B, width] of a map [B, C, H, W]."""
        features = self.layers(feature_map).mean((2, 3))
        return self.classifier(features), features


class PatchMerging(nn.Module):
    """Merges a square of tokens to one of half the side. Class tokens bypass the merging, projected if the width changes.

    Args:
        channels, width: width of the tokens before and after.
        extra: number of class tokens.
        activation: whether a GELU follows.
    """

    def __init__(self, channels: int, width: int, extra: int, activation: bool) -> None:
        super().__init__()
        self.extra = extra
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = nn.Linear(4 * channels, width, bias=False)
        self.activation = nn.GELU() if activation else nn.Identity()
        self.carry = nn.Linear(channels, width) if extra and channels != width else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, extra + S*S, C] to [B, extra + S/2*S/2, width]; an odd last row and column are dropped."""
        grid = tokens[:, self.extra :]
        side = math.isqrt(grid.shape[1])
        even = side // 2 * 2
        grid = grid.unflatten(1, (side, side))[:, :even, :even]
        joined = torch.cat(
            [grid[:, 0::2, 0::2], grid[:, 1::2, 0::2], grid[:, 0::2, 1::2], grid[:, 1::2, 1::2]], dim=-1
        ).flatten(1, 2)
        merged = self.activation(self.reduce(self.norm(joined)))
        return torch.cat([self.carry(tokens[:, : self.extra]), merged], dim=1) if self.extra else merged


class TokenExit(nn.Module):
    """Exit branch from tokens to features [B, width] and logits [B, K] through transformer blocks.

    Args:
        shape: (N, C), shape of the tokens.
        remaining: number of stages that follow; the exit has max(remaining, 1) blocks.
        width: width of the blocks and the features.
        num_classes: K.

    Source: OFA-KD's code, exit branch for a ViT or MLP: merging to a side of 7, blocks of 4 heads (fewer if the width is not a multiple of 4), class token or
    mean. Class tokens bypass the merging, through a linear layer if the width changes (ours).
    """

    def __init__(self, shape: FeatureShape, remaining: int, width: int, num_classes: int) -> None:
        super().__init__()
        tokens, channels = shape
        self.extra, side = grid_of(tokens)
        merges = max(0, math.floor(math.log2(side / TOKEN_GRID))) if side else 0
        layers: list[nn.Module] = []
        for number in range(merges):
            layers.append(PatchMerging(channels, width, self.extra, activation=number == 0 or number < merges - 1))
            channels = width
        if channels != width:
            layers.append(nn.Linear(channels, width))
        heads = next(count for count in (4, 3, 2, 1) if width % count == 0)
        layers += [Block(width, heads) for _ in range(max(remaining, 1))]
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)
        for module in self.modules():
            _initialise(module)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [B, K] and features [B, width] of tokens [B, N, C]."""
        tokens = self.layers(tokens)
        features = tokens[:, 0] if self.extra else tokens.mean(1)
        return self.classifier(features), features


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def build_exit(shape: FeatureShape, remaining: int, num_classes: int, map_width: int, token_width: int) -> nn.Module:
    """Builds the exit branch for a map (C, H, W) or for tokens (N, C)."""
    if len(shape) == 3:
        return MapExit(shape[0], remaining, map_width, num_classes)
    return TokenExit(shape, remaining, token_width, num_classes)
