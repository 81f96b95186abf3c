from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.networks import register
from coterie.networks.papers.wide_resnet import PreActivationBlock, WideResNet

register()


def build(name: str, num_classes: int) -> WideResNet:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=num_classes)


def formula(depth: int, width: int, num_classes: int) -> int:
    """Parameters counted from the paper's table 1; BatchNorm has two a channel and precedes each convolution."""
    blocks = (depth - 4) // 6
    before, total = 16, 3 * 9 * 16
    for channels in (16 * width, 32 * width, 64 * width):
        total += 2 * before + 9 * before * channels + 2 * channels + 9 * channels**2 + before * channels
        total += (blocks - 1) * 2 * (2 * channels + 9 * channels**2)
        before = channels
    return total + 2 * before + before * num_classes + num_classes


@pytest.mark.parametrize(
    ("depth", "width", "parameters_100", "published_10"),
    [(16, 2, 703_284, "0.7"), (28, 10, 36_536_884, "36.5"), (40, 2, 2_255_156, "2.2")],
)
def test_parameters(depth: int, width: int, parameters_100: int, published_10: str) -> None:
    """Exact counts of CIFAR-100; the paper's table gives one digit for CIFAR-10 (0.7M, 36.5M and 2.2M)."""
    name = f"wrn{depth}_{width}_cifar"
    for num_classes in (10, 100):
        counted = sum(parameter.numel() for parameter in build(name, num_classes).parameters())
        assert counted == formula(depth, width, num_classes)
    assert formula(depth, width, 100) == parameters_100
    assert f"{formula(depth, width, 10) / 1e6:.1f}" == published_10


@pytest.mark.parametrize(("name", "layers", "features"), [("wrn16_2_cifar", 16, 128), ("wrn28_10_cifar", 28, 640)])
def test_depth_and_width_are_what_the_name_says(name: str, layers: int, features: int) -> None:
    network = build(name, 10)
    # The paper counts the three shortcuts that are convolutions: 6n convolutions in blocks, 3 shortcuts, stem = 6n + 4.
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == layers
    assert network.num_features == features


@pytest.mark.parametrize(("in_channels", "stride"), [(4, 1), (2, 1), (2, 2)])
def test_block_equals_the_papers(in_channels: int, stride: int) -> None:
    torch.manual_seed(0)
    block = PreActivationBlock(in_channels, 4, stride, drop_rate=0.0)
    inputs = torch.randn(3, in_channels, 6, 6)

    def normalise(values: Tensor) -> Tensor:
        mean = values.mean((0, 2, 3), keepdim=True)
        return (values - mean) / (values.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()

    activated = normalise(inputs).relu()
    residual = F.conv2d(activated, block.conv1.weight, stride=stride, padding=1)
    residual = F.conv2d(normalise(residual).relu(), block.conv2.weight, padding=1)
    same_shape = stride == 1 and in_channels == 4
    shortcut = inputs if same_shape else F.conv2d(activated, block.shortcut.weight, stride=stride)
    torch.testing.assert_close(block(inputs), residual + shortcut)


def test_block_leaves_its_input_alone() -> None:
    inputs = torch.randn(2, 4, 6, 6)
    before = inputs.clone()
    PreActivationBlock(4, 4, 1, drop_rate=0.0)(inputs)
    assert torch.equal(inputs, before)


def test_dropout_of_the_paper_is_in_the_blocks() -> None:
    torch.manual_seed(0)
    network = timm.create_model("wrn16_2_cifar", block_drop_rate=0.3)
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.3] * 6 + [0.0]
    images = torch.randn(2, 3, 8, 8)
    assert not torch.equal(network.forward_features(images), network.forward_features(images))


def test_last_map_is_behind_the_last_activation() -> None:
    features = timm.create_model("wrn16_2_cifar").forward_features(torch.randn(2, 3, 8, 8))
    assert features.min() == 0
    # Behind a BatchNorm at its initial values: each channel is a standardised value cut at zero.
    assert 0.3 < features.mean() < 0.5
