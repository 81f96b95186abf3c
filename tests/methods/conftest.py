from __future__ import annotations

import pytest
import torch
from torch import nn

from coterie.networks.group import StudentGroup


class Head(nn.Module):
    """A branch that returns (logits, embedding, feature map)."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        feature_map = torch.relu(self.conv(x))
        embedding = feature_map.mean((2, 3))
        return self.fc(embedding), embedding, feature_map


@pytest.fixture
def make_group():
    """Builds a small group on a shared trunk: ``make_group(students, classes, widths=None)``."""

    def build(students: int = 3, classes: int = 4, widths: list[int] | None = None) -> StudentGroup:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        heads = [Head(5, width, classes) for width in widths or [8] * students]
        return StudentGroup(trunk, heads, example=torch.zeros(2, 3, 6, 6))

    return build


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 6, 6, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])
