from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torchvision.models import vgg16_bn

from coterie.networks import register
from coterie.networks.papers.vgg import VGG

register()


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """Convolutions and poolings of torchvision's VGG-16 with BatchNorm, without its head of 4,096."""
    torch.manual_seed(0)
    with torch.device("meta"):
        features = vgg16_bn().features
    features.to_empty(device="cpu")
    for module in features:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return features


@pytest.mark.parametrize(
    ("name", "parameters_100", "millions_100"),
    [("vgg16_cifar", 14_774_436, 14.77), ("vgg16_okddip_cifar", 15_299_748, 15.30)],
)
def test_parameters(name: str, parameters_100: int, millions_100: float, reference: nn.Module) -> None:
    body = sum(parameter.numel() for parameter in reference.parameters())
    hidden = 2 * (512 * 512 + 512) if name == "vgg16_okddip_cifar" else 0
    for num_classes in (10, 100):
        with torch.device("meta"):
            network = timm.create_model(name, num_classes=num_classes)
        counted = sum(parameter.numel() for parameter in network.parameters())
        assert counted == body + hidden + 512 * num_classes + num_classes
    assert counted == parameters_100
    assert round(counted / 1e6, 2) == millions_100
    assert network.num_features == network.head_hidden_size == 512


def test_equals_torchvisions_at_32(reference: nn.Module) -> None:
    """Rearranged poolings change nothing: five poolings take 32x32 to one value, as the global one does here."""
    network = timm.create_model("vgg16_cifar", num_classes=10)
    keys = [key for key in network.state_dict() if not key.startswith("fc.")]
    network.load_state_dict(dict(zip(keys, reference.state_dict().values(), strict=True)), strict=False)
    images = torch.randn(2, 3, 32, 32)
    expected = reference.eval()(images)
    assert expected.shape == (2, 512, 1, 1)
    features = network.eval().forward_features(images)
    assert features.shape == (2, 512, 2, 2)
    assert torch.equal(network.forward_head(features, pre_logits=True), expected.flatten(1))


def test_head_of_three_layers_has_two_dropouts() -> None:
    with torch.device("meta"):
        network = timm.create_model("vgg16_okddip_cifar", drop_rate=0.5)
    head = [*network.hidden, network.head_drop, network.fc]
    assert [type(layer) for layer in head] == [
        nn.Linear,
        nn.ReLU,
        nn.Dropout,
        nn.Linear,
        nn.ReLU,
        nn.Dropout,
        nn.Linear,
    ]
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


def test_groups_have_the_convolutions_of_configuration_d() -> None:
    with torch.device("meta"):
        network: VGG = timm.create_model("vgg16_cifar")
    groups = [network.layer1, network.layer2, network.layer3, network.layer4, network.layer5]
    widths = [[module.out_channels for module in group.modules() if isinstance(module, nn.Conv2d)] for group in groups]
    assert widths == [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]
    assert all(module.bias is not None for module in network.modules() if isinstance(module, nn.Conv2d))


def test_initial_values() -> None:
    torch.manual_seed(0)
    network = timm.create_model("vgg16_okddip_cifar")
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 3
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not linear.bias.any()
    network.reset_classifier(50)
    assert network.fc.weight.std().item() == pytest.approx(0.01, rel=0.03)
    convolution = network.get_submodule("layer3.1.conv")
    assert convolution.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert not convolution.bias.any()
