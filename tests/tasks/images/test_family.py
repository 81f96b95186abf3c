import pytest
import timm
import torch
from torch import nn

from coterie.networks.papers.registration import register
from coterie.tasks.images.family import family_of

FAMILIES = {
    "CIFAR network": ["tiny_cifar", "resnet20_cifar", "wrn16_2_cifar", "vgg16_cifar"],
    "convolutional network": ["resnet18", "resnetv2_50", "regnety_002", "densenet121", "vgg11_bn", "dla34"],
    "mobile network": [
        "mobilenetv3_small_050",
        "mobilenetv4_conv_small",
        "efficientnet_b0",
        "tf_efficientnet_lite0",
        "ghostnet_100",
        "repvit_m0_9",
    ],
    "transformer": [
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "convnext_atto",
        "mixer_s16_224",
        "levit_128s",
        "coat_lite_tiny",
    ],
}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in FAMILIES.items() for name in names])
def test_the_kind_of_a_network_is_seen_in_its_modules(family, name):
    register()
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=10)
    assert family_of(network) == family


def test_a_network_of_ones_own_has_a_kind_too():
    assert family_of(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))) == "CIFAR network"
    assert family_of(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8))) == "convolutional network"
    assert family_of(nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1))) == "transformer"
    assert family_of(nn.Linear(4, 2)) == "convolutional network"
