from __future__ import annotations

import pytest
import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.networks.gate import TrunkGate
from coterie.networks.group import StudentGroup


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 4)

    def forward(self, x):
        pooled = x.mean((2, 3)) if x.ndim == 4 else x.mean(1)
        return self.fc(pooled), pooled, x


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 2, stride=2)

    def forward(self, x):
        return self.embed(x).flatten(2).transpose(1, 2)


def group_on(trunk: nn.Module | None, channels: int) -> StudentGroup:
    return StudentGroup(trunk, [Head(channels) for _ in range(3)], example=torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize(("trunk", "channels"), [(nn.Conv2d(3, 5, 1), 5), (Tokens(), 6)], ids=["maps", "tokens"])
def test_weights_are_the_softmax_of_rectified_normalised_scores(trunk, channels):
    group = group_on(trunk, channels)
    gate = TrunkGate(group, 3)
    nn.init.normal_(gate.norm.weight)
    nn.init.normal_(gate.norm.bias)
    images = torch.randn(8, 3, 4, 4)
    maps = group(images).trunk_maps
    with torch.no_grad():
        pooled = [[float(channel.mean()) for channel in (each if each.ndim == 3 else each.T)] for each in maps[0]]
        scores = torch.tensor(pooled) @ gate.score.weight.T + gate.score.bias
        # Train mode: batch statistics.
        normal = (scores - scores.mean(0)) / (scores.var(0, unbiased=False) + gate.norm.eps).sqrt()
        rectified = (normal * gate.norm.weight + gate.norm.bias).clamp(min=0)
        expected = rectified.exp() / rectified.exp().sum(1, keepdim=True)
    torch.testing.assert_close(gate.train()(maps), expected, atol=1e-5, rtol=1e-4)


def test_zero_scores_weigh_all_alike():
    group = group_on(nn.Conv2d(3, 5, 1), 5)
    gate = TrunkGate(group, 3)
    nn.init.zeros_(gate.score.weight)
    nn.init.zeros_(gate.score.bias)
    for mode in (True, False):
        weights = gate.train(mode)(group(torch.randn(4, 3, 4, 4)).trunk_maps)
        torch.testing.assert_close(weights, torch.full((4, 3), 1 / 3))


def test_maps_of_several_views_are_averaged_after_pooling():
    group = group_on(nn.Conv2d(3, 5, 1), 5)
    gate = TrunkGate(group, 3).eval()
    views = [torch.randn(4, 3, 4, 4) for _ in range(3)]
    maps = group(views).trunk_maps
    assert len(maps) == 3
    # Pooling is linear, so the mean of the maps has the mean of the pooled maps.
    torch.testing.assert_close(gate(maps), gate((torch.stack(maps).mean(0),)))
    assert not torch.allclose(gate(maps), gate(maps[:1]))


def test_weights_are_float32_under_autocast():
    group = group_on(nn.Conv2d(3, 5, 1), 5)
    with torch.autocast("cpu", torch.bfloat16):
        weights = TrunkGate(group, 3)(group(torch.randn(4, 3, 4, 4)).trunk_maps)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(1), torch.ones(4))


def test_nothing_shared_or_no_map_is_refused():
    with pytest.raises(CoterieError, match=r"set network\.at"):
        TrunkGate(group_on(None, 3), 3)
