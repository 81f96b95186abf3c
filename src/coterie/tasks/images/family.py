"""Which kind of network a module is, by what it is made of: settings are chosen by that (``coterie.recipe.fitting``)."""

from __future__ import annotations

from typing import Literal

from torch import nn

ImageFamily = Literal["CIFAR network", "convolutional network", "mobile network", "transformer"]
MANY = 0.5  # share of depthwise convolutions from which a network is a mobile one
SMALL = 64  # pixels a side up to which a network is made for small images


def family_of(network: nn.Module) -> ImageFamily:
    """The kind of an image network.

    A transformer is what attends, or normalises by layers rather than batches (ConvNeXt trains as Swin does). A CIFAR network is one
    whose first convolution keeps the image's size, and that timm does not know as one for larger images (VGG). Of a mobile network's
    convolutions with a kernel above 1x1, many are depthwise.

    Args:
        network: on any device, the meta device included; nothing is computed.
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
