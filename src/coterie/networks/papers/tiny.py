"""A network for demos and tests. It is not a published network, so its results do not belong in comparisons."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, register_model

from coterie.networks.papers.image_classifier import cifar_configurations
from coterie.networks.papers.resnet import BasicBlock, ResNet

default_cfgs = cifar_configurations(("tiny_cifar",), first_conv="stem.conv")


@register_model
def tiny_cifar(pretrained: bool = False, **options: Any) -> ResNet:
    """A ResNet-8 of half the width (8, 16, 32 channels), for 8x8 grey digits as well as 32x32 colour images."""
    return build_model_with_cfg(
        ResNet, "tiny_cifar", pretrained, block=BasicBlock, depths=(1, 1, 1), widths=(8, 16, 32), **options
    )
