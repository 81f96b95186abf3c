"""OFA-KD's exit branches, by the description of its code; stage i of 4 has 4 - i stages after it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn

from coterie.networks.exits import MapExit, PatchMerging, SeparableDownsampling, TokenExit, build_exit

CLASSES = 5
STUDENT, WIDER = 16, 40  # d_s, and max(d_s, d_t)


def exit_of(shape, stage):
    return build_exit(shape, 4 - stage, CLASSES, WIDER, STUDENT)


def test_a_separable_convolution_has_the_codes_layers_in_the_codes_order():
    layers = list(SeparableDownsampling(6, 10).layers)
    kinds = [nn.Conv2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
    assert [type(layer) for layer in layers] == kinds
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride, c.groups) for c in convolutions] == [
        (6, 6, (3, 3), (2, 2), 6),
        (6, 6, (1, 1), (1, 1), 1),
        (6, 6, (3, 3), (1, 1), 6),
        (6, 10, (1, 1), (1, 1), 1),
    ]
    assert convolutions[0].bias is None
    assert convolutions[2].bias is None
    assert [layer.num_features for layer in layers if isinstance(layer, nn.BatchNorm2d)] == [6, 10]


@pytest.mark.parametrize(("size", "half"), [((8, 8), (4, 4)), ((7, 5), (4, 3)), ((1, 1), (1, 1))])
def test_a_separable_convolution_halves_the_resolution(size, half):
    assert SeparableDownsampling(3, 4).eval()(torch.randn(2, 3, *size)).shape == (2, 4, *half)


@pytest.mark.parametrize(
    ("stage", "channels"), [(1, [(6, 12), (12, 24), (24, WIDER)]), (2, [(6, 12), (12, WIDER)]), (3, [(6, WIDER)])]
)
def test_a_maps_exit_halves_once_for_each_stage_that_follows_and_doubles_the_channels_up_to_the_last(stage, channels):
    branch = exit_of((6, 16, 16), stage)
    assert isinstance(branch, MapExit)
    assert all(isinstance(layer, SeparableDownsampling) for layer in branch.layers)
    assert [(layer.layers[0].in_channels, layer.layers[-2].num_features) for layer in branch.layers] == channels
    images = torch.randn(2, 6, 16, 16)
    side = 16 >> (4 - stage)
    assert branch.layers(images).shape == (2, WIDER, side, side)


def test_the_last_stage_has_a_1x1_convolution_a_mean_over_positions_and_a_classifier():
    branch = exit_of((6, 3, 4), 4)
    assert isinstance(branch.layers, nn.Conv2d)
    assert branch.layers.weight.shape == (WIDER, 6, 1, 1)
    feature_map = torch.randn(2, 6, 3, 4)
    mixed = torch.einsum("oc,bchw->bohw", branch.layers.weight[:, :, 0, 0], feature_map)
    pooled = mixed.flatten(2).sum(-1) / 12
    if branch.layers.bias is not None:
        pooled = pooled + branch.layers.bias
    logits, features = branch(feature_map)
    torch.testing.assert_close(features, pooled)
    torch.testing.assert_close(logits, pooled @ branch.classifier.weight.T + branch.classifier.bias)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_maps_exit_classifies_the_pooled_map(stage):
    branch = exit_of((6, 16, 16), stage).eval()
    feature_map = torch.randn(2, 6, 16, 16)
    logits, features = branch(feature_map)
    assert logits.shape == (2, CLASSES)
    assert features.shape == (2, WIDER)
    pooled = branch.layers(feature_map).flatten(2).mean(-1)
    torch.testing.assert_close(features, pooled)
    torch.testing.assert_close(logits, F.linear(pooled, branch.classifier.weight, branch.classifier.bias))


def test_initial_values():
    """Convolutions kaiming by fan-out, BatchNorm 1 and 0, linear layers normal with 0.02 and no bias."""
    wide = build_exit((64, 2, 2), 0, 200, 256, STUDENT)
    assert wide.layers.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    halving = build_exit((64, 4, 4), 1, CLASSES, 256, STUDENT)
    assert halving.layers[0].layers[5].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    tokens = build_exit((16, 24), 1, 200, WIDER, 256)
    for branch in (wide, tokens):
        assert branch.classifier.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not branch.classifier.bias.any()
    linear = [module for module in tokens.layers.modules() if isinstance(module, nn.Linear)]
    assert len(linear) > 3
    for layer in linear:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.bias is None or not layer.bias.any()
    for norm in (module for module in halving.modules() if isinstance(module, nn.BatchNorm2d)):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert not norm.bias.any()


def test_the_rank_of_the_stage_says_which_kind_of_exit_it_gets():
    assert isinstance(exit_of((6, 4, 4), 2), MapExit)
    assert isinstance(exit_of((16, 6), 2), TokenExit)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize(
    ("side", "merges"),
    [(4, 0), (7, 0), (10, 0), (11, 0), (13, 0), (14, 1), (20, 1), (27, 1), (28, 2), (55, 2), (56, 3)],
)
def test_tokens_are_merged_as_often_as_a_side_of_7_allows(side, merges, extra):
    """The integer part of log2(side / 7): 10 and 11 sides are nearer to 14 than to 7, and are not merged."""
    branch = exit_of((side * side + extra, 8), 4)
    merging = [layer for layer in branch.layers if isinstance(layer, PatchMerging)]
    assert len(merging) == merges
    assert [layer.norm.normalized_shape[0] for layer in merging] == [32, *[4 * STUDENT] * 2][:merges]
    assert all(layer.reduce.out_features == STUDENT and layer.reduce.bias is None for layer in merging)
    gelu = [isinstance(layer.activation, nn.GELU) for layer in merging]
    assert gelu == {0: [], 1: [True], 2: [True, False], 3: [True, True, False]}[merges]


@pytest.mark.parametrize(("stage", "blocks"), [(1, 3), (2, 2), (3, 1), (4, 1)])
def test_a_tokens_exit_has_a_transformer_block_for_each_stage_that_follows_and_one_at_least(stage, blocks):
    branch = exit_of((17, 8), stage)
    found = [layer for layer in branch.layers if isinstance(layer, Block)]
    assert len(found) == blocks
    assert all(block.attn.num_heads == 4 for block in found)
    assert all(block.norm1.normalized_shape == (STUDENT,) for block in found)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
@pytest.mark.parametrize(("tokens", "channels"), [(16, 8), (17, 8), (197, STUDENT), (196, 8)])
def test_shapes_of_a_tokens_exit(stage, tokens, channels):
    logits, features = exit_of((tokens, channels), stage)(torch.randn(2, tokens, channels))
    assert logits.shape == (2, CLASSES)
    assert features.shape == (2, STUDENT)


def test_the_class_token_is_classified_and_the_mean_where_there_is_none():
    for tokens in (17, 16):
        branch = exit_of((tokens, STUDENT), 4)
        branch.layers = nn.Identity()
        values = torch.randn(2, tokens, STUDENT)
        expected = values[:, 0] if tokens == 17 else values.sum(1) / 16
        logits, features = branch(values)
        torch.testing.assert_close(features, expected)
        torch.testing.assert_close(logits, expected @ branch.classifier.weight.T)


def test_merging_by_hand():
    """LayerNorm of four joined neighbours, a linear layer and GELU; its weights are alike for the four, so their order does not matter."""
    merging = PatchMerging(3, 6, extra=0, activation=True)
    weight = torch.randn(6, 3)
    merging.reduce.weight.data = weight.repeat(1, 4)
    tokens = torch.randn(2, 16, 3)
    merged = merging(tokens)
    assert merged.shape == (2, 4, 6)
    for sample in range(2):
        for row in range(2):
            for column in range(2):
                places = [(2 * row + down) * 4 + 2 * column + right for down in (0, 1) for right in (0, 1)]
                four = tokens[sample, places]
                unit = (four - four.mean()) / (four.var(unbiased=False) + 1e-5).sqrt()
                expected = F.gelu(weight @ unit.sum(0))
                torch.testing.assert_close(merged[sample, 2 * row + column], expected, atol=1e-5, rtol=1e-4)


def test_merging_tells_the_four_neighbours_apart():
    merging = PatchMerging(3, 6, extra=0, activation=False)
    tokens = torch.randn(1, 4, 3)
    first = merging(tokens)
    for order in ([1, 0, 2, 3], [2, 1, 0, 3], [3, 1, 2, 0]):
        assert not torch.allclose(merging(tokens[:, order]), first, atol=1e-3)


def test_an_odd_row_and_column_are_left_out_of_merging():
    merging = PatchMerging(3, 6, extra=1, activation=True)
    square = torch.randn(2, 5, 5, 3)
    cls = torch.randn(2, 1, 3)
    even = torch.cat([cls, square[:, :4, :4].flatten(1, 2)], 1)
    torch.testing.assert_close(merging(torch.cat([cls, square.flatten(1, 2)], 1)), merging(even))


def test_class_tokens_pass_merging_by():
    tokens = torch.randn(2, 18, 6)
    same = PatchMerging(6, 6, extra=2, activation=True)
    assert torch.equal(same(tokens)[:, :2], tokens[:, :2])
    without = PatchMerging(6, 6, extra=0, activation=True)
    without.load_state_dict(same.state_dict())
    torch.testing.assert_close(same(tokens)[:, 2:], without(tokens[:, 2:]))
    wider = PatchMerging(6, 10, extra=2, activation=True)
    other = torch.cat([tokens[:, :2], torch.randn(2, 16, 6)], 1)
    torch.testing.assert_close(wider(tokens)[:, :2], wider(other)[:, :2])
    assert wider(tokens).shape == (2, 2 + 4, 10)


@pytest.mark.parametrize("shape", [(6, 16, 16), (16, 8), (197, 8)])
def test_all_of_an_exit_is_trained(shape):
    branch = exit_of(shape, 2)
    branch(torch.randn(4, *shape))[0].square().sum().backward()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
