"""AFD's discriminators between the feature maps of two students. Training only, never exported."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.networks.fusion import FeatureShape, channels_of


class MapDiscriminator(nn.Module):
    """Scores each feature map: three convolutions with group normalisation and leaky ReLU, mean over positions, a linear output.

    Args:
        shape: (C, H, W), or (N, C) for tokens, which use 1x1 convolutions only.
        width: channels of the hidden layers; None: C, at most 256.

    Source: reconstruction; only the roles in the paper are known to us. Group normalisation, since batch statistics would make one student's maps look like
    another's.
    """

    def __init__(self, shape: FeatureShape, width: int | None = None) -> None:
        super().__init__()
        kernel = 3 if len(shape) == 3 else 1
        channels = channels_of(shape)
        width = width or min(channels, 256)
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [
                nn.Conv2d(channels, width, kernel, padding=kernel // 2),
                nn.GroupNorm(1, width),
                nn.LeakyReLU(0.2),
            ]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.score = nn.Linear(width, 1)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Returns scores [B] of maps [B, C, H, W] or [B, N, C]; 1 for the other student's maps, 0 for the student's own."""
        maps = feature_map.transpose(1, 2).unsqueeze(-1) if feature_map.ndim == 3 else feature_map
        return self.score(self.layers(maps).mean((2, 3))).squeeze(1).float()


class MapTranslator(nn.Module):
    """Converts a student's map to the shape of another's: a 1x1 convolution, and averaging or interpolation over positions.

    Args:
        shape, target: (C, H, W) or (N, C) of input and output; both maps or both tokens.
    """

    def __init__(self, shape: FeatureShape, target: FeatureShape) -> None:
        super().__init__()
        self.tokens = len(shape) == 2
        self.size = (target[0], 1) if self.tokens else (target[1], target[2])
        self.project = nn.Conv2d(channels_of(shape), channels_of(target), 1)

    def forward(self, feature_map: Tensor) -> Tensor:
        """[B, C, H, W] or [B, N, C] to the other student's shape."""
        maps = feature_map.transpose(1, 2).unsqueeze(-1) if self.tokens else feature_map
        maps = F.adaptive_avg_pool2d(self.project(maps), self.size)
        return maps.squeeze(-1).transpose(1, 2) if self.tokens else maps


def frozen_score(discriminator: nn.Module, feature_map: Tensor) -> Tensor:
    """The discriminator's score with detached weights, so that the gradient reaches the map only."""
    constants = {name: value.detach() for name, value in discriminator.named_parameters()}
    result: Tensor = torch.func.functional_call(discriminator, constants, (feature_map,))
    return result
