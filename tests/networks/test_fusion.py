from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coterie.errors import CoterieError
from coterie.networks.fusion import FeatureFusion, FusedClassifier, MapFusion, channels_of

EQUAL = [(6, 4, 4), (6, 4, 4)]


def test_channels_come_first_in_maps_and_last_in_tokens():
    assert channels_of((6, 4, 5)) == 6
    assert channels_of((10, 6)) == 6


def normalised(values, norm):
    """Batch normalisation in train mode, by hand."""
    mean, variance = values.mean((0, 2, 3), keepdim=True), values.var((0, 2, 3), unbiased=False, keepdim=True)
    return (values - mean) / (variance + norm.eps).sqrt()


def test_1x1_mixes_the_channels_of_all_maps_position_by_position():
    fusion = MapFusion(EQUAL).train()
    first, second = torch.randn(2, 3, 6, 4, 4)
    with torch.no_grad():
        weight = fusion.fuse[0].weight[:, :, 0, 0]
        mixed = torch.einsum("oc,bchw->bohw", weight, torch.cat([first, second], 1))
        torch.testing.assert_close(
            fusion([first, second]), normalised(mixed, fusion.fuse[1]).relu(), atol=1e-5, rtol=1e-4
        )


def test_depthwise_looks_at_neighbours_of_each_channel_first():
    """FFL's module: 3x3 for each channel of the concatenation, BN, ReLU, 1x1 to one map's channels, BN, ReLU; no biases."""
    fusion = MapFusion(EQUAL, "depthwise").train()
    maps = torch.randn(2, 3, 6, 4, 4)
    with torch.no_grad():
        joined = torch.cat(list(maps), 1)
        each = [F.conv2d(joined[:, c : c + 1], fusion.fuse[0].weight[c : c + 1], padding=1) for c in range(12)]
        hidden = normalised(torch.cat(each, 1), fusion.fuse[1]).relu()
        mixed = torch.einsum("oc,bchw->bohw", fusion.fuse[3].weight[:, :, 0, 0], hidden)
        torch.testing.assert_close(fusion(maps), normalised(mixed, fusion.fuse[4]).relu(), atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in fusion.parameters()) == 12 * 9 + 2 * 12 + 12 * 6 + 2 * 6


def test_sum_does_not_tell_the_students_apart():
    fusion = MapFusion(EQUAL, "sum").eval()
    first, second = torch.randn(2, 3, 6, 4, 4)
    torch.testing.assert_close(fusion([first, second]), fusion([second, first]))
    unequal = MapFusion([(6, 4, 4), (8, 4, 4)], "sum")
    assert unequal([first, torch.randn(3, 8, 4, 4)]).shape == (3, 8, 4, 4)


@pytest.mark.parametrize("kind", ["1x1", "depthwise", "sum"])
@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(6, 4, 4), (8, 4, 4)], (8, 4, 4)),  # as many channels as the widest
        ([(6, 4, 4), (6, 2, 2)], (6, 2, 2)),  # the smallest map's positions
        ([(6, 4, 2), (6, 2, 4)], (6, 2, 2)),
        ([(6, 4, 4)], (6, 4, 4)),
        ([(9, 6), (9, 8)], (8, 9, 1)),
        ([(9, 6), (4, 6)], (6, 4, 1)),
        ([(6, 4, 4), (9, 8)], (8, 1, 1)),  # a map beside tokens: their means
    ],
)
def test_shapes(shapes, expected, kind):
    if kind == "depthwise" and any(len(shape) == 2 for shape in shapes):
        with pytest.raises(CoterieError, match="use fusion='1x1'"):
            MapFusion(shapes, kind)
        return
    fusion = MapFusion(shapes, kind)
    assert fusion([torch.randn(2, *shape) for shape in shapes]).shape == (2, *expected)
    assert fusion.width == expected[0]


def test_the_width_is_bounded_where_asked():
    assert MapFusion([(300, 2, 2)]).width == 300
    assert MapFusion([(300, 2, 2)], max_width=256).width == 256
    assert MapFusion([(30, 2, 2)], max_width=256).width == 30


def test_larger_maps_are_averaged_to_the_smallest():
    fusion = MapFusion([(3, 4, 4), (3, 2, 2)]).eval()
    large, small = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)
    averaged = large.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1))
    expected = MapFusion([(3, 2, 2), (3, 2, 2)]).eval()
    expected.load_state_dict(fusion.state_dict())
    torch.testing.assert_close(fusion([large, small]), expected([averaged, small]))


def test_the_fused_classifier_classifies_the_pooled_fused_map():
    fused = FusedClassifier(EQUAL, num_classes=5)
    logits, fused_map = fused(torch.randn(2, 3, 6, 4, 4))
    assert fused_map.shape == (3, 6, 4, 4)
    pooled = torch.stack([fused_map[:, c].flatten(1).mean(1) for c in range(6)], 1)
    torch.testing.assert_close(logits, pooled @ fused.classifier.weight.T + fused.classifier.bias)


def test_the_fused_classifier_convolves_neighbours_where_there_are_any():
    def has_depthwise(module):
        return any(isinstance(each, nn.Conv2d) and each.groups > 1 for each in module.modules())

    assert has_depthwise(FusedClassifier(EQUAL, 5))
    assert not has_depthwise(FusedClassifier([(9, 6), (9, 6)], 5))
    assert not has_depthwise(FusedClassifier(EQUAL, 5, "1x1"))


def test_attention_scores_start_equal_and_can_be_left_out():
    fusion = FeatureFusion(EQUAL, outputs=2)
    maps = torch.randn(2, 3, 6, 4, 4)
    assert not fusion(maps).any()
    assert fusion.squeeze.out_features == 8  # an eighth of the width, 8 at least
    assert FeatureFusion([(160, 2, 2)], outputs=2).squeeze.out_features == 20
    assert FeatureFusion(EQUAL, outputs=None)(maps).shape == (3, 8)
