from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coterie.networks.pyramid import FeaturePyramid

MAPS = [(6, 8, 8), (10, 4, 4), (12, 2, 2)]
TOKENS = [(17, 6), (17, 6), (17, 6)]


class Sum(nn.Module):
    def forward(self, maps):
        assert len({each.shape for each in maps}) == 1
        return sum(maps)


def test_ways_down_and_up_by_hand():
    """Of every node only the sum is left, and of the maps one number: 1 + 10x + 100x², so that each path can be read off."""
    pyramid = FeaturePyramid([(1, 4, 4), (1, 2, 2), (1, 1, 1)], num_classes=2, channels=1)
    pyramid.lateral = nn.ModuleList(nn.Identity() for _ in range(3))
    pyramid.down = nn.ModuleList(Sum() for _ in pyramid.down)
    pyramid.up = nn.ModuleList(Sum() for _ in pyramid.up)
    maps = [torch.full((1, 1, side, side), value) for side, value in ((4, 1.0), (2, 10.0), (1, 100.0))]
    logits, refined = pyramid(maps)
    down = [1 + (10 + 100), 10 + 100, 100]
    # On the way back a stage sees its lateral, itself on the way down, and what comes from below; the deepest has one number fewer.
    middle = 10 + down[1] + down[0]
    deepest = 100 + middle
    for found, side, value in zip(refined, (4, 2, 1), (down[0], middle, deepest), strict=True):
        torch.testing.assert_close(found, torch.full((1, 1, side, side), float(value)))
    expected = deepest * pyramid.classifier.weight[:, 0] + pyramid.classifier.bias
    torch.testing.assert_close(logits, expected[None])


def test_what_is_handed_up_is_averaged_and_what_is_handed_down_is_repeated():
    pyramid = FeaturePyramid([(1, 2, 2), (1, 1, 1)], num_classes=2, channels=1)
    pyramid.lateral = nn.ModuleList(nn.Identity() for _ in range(2))
    pyramid.down, pyramid.up = nn.ModuleList([Sum()]), nn.ModuleList([Sum()])
    _, refined = pyramid([torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]), torch.tensor([[[[10.0]]]])])
    torch.testing.assert_close(refined[0], torch.tensor([[[[11.0, 12.0], [13.0, 16.0]]]]))
    torch.testing.assert_close(refined[1], torch.tensor([[[[10.0 + 13.0]]]]))


@pytest.mark.parametrize("inputs", [2, 3])
def test_a_node_is_a_weighted_mean_and_separable_convolutions(inputs):
    pyramid = FeaturePyramid(MAPS, num_classes=2, channels=4, depth=2).eval()
    node = pyramid.up[0] if inputs == 3 else pyramid.down[0]
    maps = torch.randn(inputs, 2, 4, 5, 5)
    weights = torch.tensor([1.0, 3.0, 4.0])[:inputs]
    node.weights.data = weights.clone()
    values = sum(weight / weights.sum() * each for weight, each in zip(weights, maps, strict=True))
    convolutions = [layer for layer in node.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 4
    for depthwise, pointwise in zip(convolutions[::2], convolutions[1::2], strict=True):
        each = [F.conv2d(values[:, c : c + 1], depthwise.weight[c : c + 1], padding=1) for c in range(4)]
        values = torch.einsum("oc,bchw->bohw", pointwise.weight[:, :, 0, 0], torch.cat(each, 1))
        values = (values / (1 + 1e-5) ** 0.5).relu()  # BatchNorm before it has seen anything
    torch.testing.assert_close(node(list(maps)), values, atol=1e-5, rtol=1e-3)


def test_a_map_with_a_negative_weight_counts_for_nothing():
    node = FeaturePyramid(MAPS, num_classes=2, channels=4).eval().down[0]
    first, second, other = torch.randn(3, 2, 4, 5, 5)
    node.weights.data = torch.tensor([2.0, -1.0])
    torch.testing.assert_close(node([first, second]), node([first, other]))
    assert node([first, second]).any()
    node.weights.data = torch.tensor([-2.0, -1.0])
    assert torch.isfinite(node([first, second])).all()


@pytest.mark.parametrize(
    ("shapes", "sizes"), [(MAPS, [(8, 8), (4, 4), (2, 2)]), (TOKENS, [(4, 4)] * 3), (MAPS[1:], [(4, 4), (2, 2)])]
)
def test_every_stage_has_a_refined_map_at_its_own_resolution(shapes, sizes):
    logits, refined = FeaturePyramid(shapes, num_classes=5, channels=8)([torch.randn(3, *shape) for shape in shapes])
    assert logits.shape == (3, 5)
    assert [tuple(each.shape) for each in refined] == [(3, 8, *size) for size in sizes]


def test_the_codes_dimensions():
    pyramid = FeaturePyramid(MAPS, num_classes=5)
    assert [lateral[0].weight.shape for lateral in pyramid.lateral] == [(256, c, 1, 1) for c, _, _ in MAPS]
    assert all(
        len([m for m in node.modules() if isinstance(m, nn.Conv2d)]) == 4 for node in [*pyramid.down, *pyramid.up]
    )
    assert pyramid.classifier.in_features == 256


@pytest.mark.parametrize("shapes", [MAPS, TOKENS])
def test_every_refined_map_knows_every_stage(shapes):
    pyramid = FeaturePyramid(shapes, num_classes=5, channels=8)
    taps = [torch.randn(3, *shape, requires_grad=True) for shape in shapes]
    logits, refined = pyramid(taps)
    for value in (*refined, logits):
        found = torch.autograd.grad(value.square().sum(), taps, retain_graph=True)
        assert all(each.abs().sum() > 0 for each in found)


def test_all_of_it_is_trained():
    pyramid = FeaturePyramid(MAPS, num_classes=5, channels=8)
    logits, _ = pyramid([torch.randn(3, *shape) for shape in MAPS])
    logits.square().sum().backward()
    for name, parameter in pyramid.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
