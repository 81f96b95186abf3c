"""Classifies a network by its layers; automatic settings depend on its family (``coterie.recipe.fitting``)."""

from __future__ import annotations

from typing import Literal

from torch import nn

ImageFamily = Literal["CIFAR network", "convolutional network", "mobile network", "transformer"]
MANY = 0.5  # minimum share of depthwise convolutions of a mobile network
SMALL = 64  # maximum side in pixels of small images


def family_of(network: nn.Module) -> ImageFamily:
    """Returns the family of an image network.

    - A transformer has attention, or more layer normalisations than batch normalisations (ConvNeXt trains like Swin).
    - The first convolution of a CIFAR network has stride 1, and timm does not list the network for larger images (as it does VGG).
    - At least half of a mobile network's convolutions with a kernel above 1x1 are depthwise.

    Args:
        network: on any device, including the meta device; nothing is computed.
    """
    modules = list(network.modules())
    batch_norms = sum(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in modules)
    layer_norms = sum(isinstance(each, (nn.LayerNorm, nn.GroupNorm)) for each in modules)
    if layer_norms > batch_norms or any("attention" in type(each).__name__.lower() for each in modules):
        return "transformer"
    convolutions = [each for each in modules if isinstance(each, nn.Conv2d)]
    usual = (getattr(network, "pretrained_cfg", None) or {}).get("input_size", (3, 0, 0))[1]
    if convolutions and set(convolutions[0].stride) == {1} and usual <= SMALL:
        return "CIFAR network"
    spatial = [each for each in convolutions if max(each.kernel_size) > 1]
    depthwise = sum(each.groups == each.in_channels > 1 for each in spatial)
    return "mobile network" if spatial and depthwise >= MANY * len(spatial) else "convolutional network"
