from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet as torchvision_resnet

from coterie.networks import register
from coterie.networks.papers.resnet import BasicBlock, Bottleneck, ResNet, WideBottleneck

register()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build(name: str, num_classes: int) -> ResNet:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "num_classes", "millions", "features"),
    [
        ("resnet32_cifar", 100, "0.473", 64),
        ("resnet32_cifar", 10, "0.467", 64),
        ("resnet110_okddip_cifar", 100, "1.171", 256),
        ("resnet110_okddip_cifar", 10, "1.148", 256),
        ("wrn20_8_okddip_cifar", 100, "6.87", 256),
    ],
)
def test_parameters_of_the_family_table(name: str, num_classes: int, millions: str, features: int) -> None:
    network = build(name, num_classes)
    digits = len(millions.partition(".")[2])
    assert f"{count(network) / 1e6:.{digits}f}" == millions
    assert network.num_features == features


@pytest.mark.parametrize(
    ("name", "shared", "branch"), [("resnet32_cifar", 0.113, 0.360), ("resnet110_okddip_cifar", 0.275, 0.896)]
)
def test_shared_part_and_branch_of_the_family_table(name: str, shared: float, branch: float) -> None:
    network = build(name, 100)
    assert round(count(nn.ModuleList([network.stem, network.layer1, network.layer2])) / 1e6, 3) == shared
    assert round(count(nn.ModuleList([network.layer3, network.fc])) / 1e6, 3) == branch


def test_the_third_resnet110_of_ones_repository() -> None:
    """Bottlenecks [18, 18, 18]: 164 layers, 1.727M and 1.704M parameters in the same table."""
    with torch.device("meta"):
        counts = [count(ResNet(Bottleneck, (18, 18, 18), num_classes=classes)) for classes in (100, 10)]
    assert [round(number / 1e6, 3) for number in counts] == [1.727, 1.704]


def he_parameters(depth: int, num_classes: int) -> int:
    """He's network with option A, counted from the formula: BatchNorm has two parameters a channel."""
    blocks = (depth - 2) // 6
    total = 3 * 9 * 16 + 2 * 16
    for before, width in ((16, 16), (16, 32), (32, 64)):
        convolutions = 9 * before * width + (2 * blocks - 1) * 9 * width * width
        total += convolutions + 2 * blocks * 2 * width
    return total + 64 * num_classes + num_classes


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("depth", [8, 20, 32, 44, 56, 110])
def test_parameters_are_hes_and_the_shortcuts(depth: int, num_classes: int) -> None:
    projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert projections == 2752
    assert count(build(f"resnet{depth}_cifar", num_classes)) == he_parameters(depth, num_classes) + projections


@pytest.mark.parametrize(
    ("depth", "published"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.73")]
)
def test_formula_gives_the_published_counts(depth: int, published: str) -> None:
    """Table 6 of He et al. (its 1.7M is given with one digit)."""
    assert f"{he_parameters(depth, 10) / 1e6:.2f}" == published


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet110_cifar", 110), ("resnet110_okddip_cifar", 110), ("wrn20_8_okddip_cifar", 20)]
)
def test_depth_is_what_the_name_says(name: str, layers: int) -> None:
    weighted = [
        key
        for key, module in build(name, 10).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in key
    ]
    assert len(weighted) == layers


def test_the_two_resnet110_have_different_blocks() -> None:
    def kinds(name: str) -> set[type[nn.Module]]:
        return {type(module) for module in build(name, 10).modules() if isinstance(module, BasicBlock | Bottleneck)}

    assert kinds("resnet110_cifar") == {BasicBlock}
    assert kinds("resnet110_okddip_cifar") == {Bottleneck}
    assert kinds("wrn20_8_okddip_cifar") == {WideBottleneck}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("ours", "reference", "base_width"),
    [
        (BasicBlock, torchvision_resnet.BasicBlock, 64),
        (Bottleneck, torchvision_resnet.Bottleneck, 64),
        (WideBottleneck, torchvision_resnet.Bottleneck, 64 * 8),
    ],
)
def test_blocks_equal_torchvisions(
    ours: type[BasicBlock] | type[Bottleneck], reference: type[nn.Module], base_width: int, stride: int
) -> None:
    torch.manual_seed(0)
    in_channels = 8 * ours.expansion // stride
    block = ours(in_channels, 8, stride)
    downsample = None
    if stride == 2:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, 8 * ours.expansion, 1, stride=2, bias=False), nn.BatchNorm2d(8 * ours.expansion)
        )
    other = reference(in_channels, 8, stride, downsample, base_width=base_width)
    pairs = list(zip(other.state_dict().items(), block.state_dict().values(), strict=True))
    other.load_state_dict({key: value for (key, _), value in pairs})
    inputs = torch.randn(2, in_channels, 8, 8)
    assert torch.equal(block(inputs), other(inputs))


def test_stages_halve_the_size() -> None:
    network = build("resnet20_cifar", 10)
    with torch.device("meta"):
        maps = network.stem(torch.empty(1, 3, 32, 32))
        shapes = [tuple(maps.shape)]
        for stage in (network.layer1, network.layer2, network.layer3):
            maps = stage(maps)
            shapes.append(tuple(maps.shape))
    assert shapes == [(1, 16, 32, 32), (1, 16, 32, 32), (1, 32, 16, 16), (1, 64, 8, 8)]
