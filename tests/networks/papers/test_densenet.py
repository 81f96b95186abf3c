from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.densenet import DenseNet as TorchvisionDenseNet

from coterie.networks import register
from coterie.networks.papers.densenet import DenseNet

register()


@pytest.fixture(scope="module")
def network() -> DenseNet:
    torch.manual_seed(0)
    return timm.create_model("densenet40_12_cifar").eval()


def test_parameters() -> None:
    counts = {}
    for num_classes in (100, 10):
        with torch.device("meta"):
            built = timm.create_model("densenet40_12_cifar", num_classes=num_classes)
        counts[num_classes] = sum(parameter.numel() for parameter in built.parameters())
    assert counts == {100: 188_092, 10: 176_122}
    assert [round(count / 1e6, 3) for count in counts.values()] == [0.188, 0.176]
    assert built.num_features == 132


def test_depth_is_40(network: DenseNet) -> None:
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == 40


def test_equals_torchvisions(network: DenseNet) -> None:
    """From the first dense block on: torchvision's stem is ImageNet's."""
    reference = TorchvisionDenseNet(
        growth_rate=12, block_config=(6, 6, 6), num_init_features=24, bn_size=4, num_classes=100
    ).eval()
    features = reference.features
    blocks = nn.Sequential(
        features.denseblock1,
        features.transition1,
        features.denseblock2,
        features.transition2,
        features.denseblock3,
        features.norm5,
    )
    values = [value for key, value in network.state_dict().items() if not key.startswith(("stem.", "fc."))]
    blocks.load_state_dict(dict(zip(blocks.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 16, 16)
    expected = F.relu(blocks(F.conv2d(images, network.stem.weight, padding=1)))
    assert torch.equal(network.forward_features(images), expected)
    embedding = network.forward_head(expected, pre_logits=True)
    torch.testing.assert_close(embedding, expected.mean((2, 3)))


def test_every_layer_sees_all_before_it(network: DenseNet) -> None:
    inputs = torch.randn(2, 24, 8, 8)
    outputs = network.layer1(inputs)
    assert outputs.shape == (2, 24 + 6 * 12, 8, 8)
    assert torch.equal(outputs[:, :24], inputs)
    assert torch.equal(outputs[:, : 24 + 12], network.layer1[0](inputs))


def test_initial_values(network: DenseNet) -> None:
    weight = network.get_submodule("layer3.5.conv1").weight
    assert weight.std().item() == pytest.approx((2 / 120) ** 0.5, rel=0.05)
    assert not network.fc.bias.any()


def test_dropout_of_the_paper_is_in_the_layers() -> None:
    with torch.device("meta"):
        built = timm.create_model("densenet40_12_cifar", block_drop_rate=0.2)
    assert [module.p for module in built.modules() if isinstance(module, nn.Dropout)] == [0.2] * 18 + [0.0]
