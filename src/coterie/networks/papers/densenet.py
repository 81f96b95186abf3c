"""DenseNet-BC for CIFAR.

Huang et al., "Densely Connected Convolutional Networks" (arXiv 1608.06993): every layer sees the maps of all previous layers in its block. Pitfalls:

- The OKDDip family's "DenseNet-40-12" is the BC variant (bottlenecks of 4 * growth channels, transitions that halve the
  channels, a stem of 2 * growth channels) with [6, 6, 6] layers of two convolutions each: 0.18M parameters with 10
  classes. The paper's DenseNet (k = 12, depth 40) of 1.0M parameters is the plain variant with [12, 12, 12] layers.
- OKDDip's branched version assigns one dense block object to all branches, so they share its weights, and its published
  DenseNet rows are suspect; branches here never share a parameter.
- A last BatchNorm and ReLU (``norm``, ``act``) follow ``layer3``; the last feature map is their output.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from coterie.networks.papers.image_classifier import ImageClassifier, cifar_configurations


class DenseLayer(nn.Module):
    """Appends ``growth`` channels to its input: [B, C, h, w] to [B, C + growth, h, w].

    Args:
        in_channels: channels of the input.
        growth: channels that are appended.
        drop_rate: dropout on the appended channels.
    """

    def __init__(self, in_channels: int, growth: int, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, kernel_size=3, padding=1, bias=False)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, inputs: Tensor) -> Tensor:
        bottleneck = self.conv1(self.act1(self.norm1(inputs)))
        new = self.drop(self.conv2(self.act2(self.norm2(bottleneck))))
        return torch.cat([inputs, new], dim=1)


class DenseNet(ImageClassifier):
    """``stem`` (a convolution), dense blocks ``layer1`` to ``layer3`` with ``transition1`` and ``transition2`` between.

    OKDDip shares everything up to ``transition2`` and gives each branch ``layer3``, ``norm`` and ``fc``.

    Args:
        depths: layers of each dense block.
        growth: channels that each layer adds.
        num_classes: 0 for no classifier.
        in_chans: channels of the images.
        global_pool: pooling before the classifier.
        drop_rate: dropout on the classifier's input (timm's meaning; not in the paper).
        block_drop_rate: dropout after each dense layer (the paper's, 0.2 on sets without augmentation).
    """

    def __init__(
        self,
        depths: tuple[int, int, int],
        growth: int,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        block_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(in_chans, channels, kernel_size=3, padding=1, bias=False)
        self.layer1 = _dense_block(depths[0], channels, growth, block_drop_rate)
        channels += depths[0] * growth
        self.transition1 = _transition(channels)
        channels //= 2
        self.layer2 = _dense_block(depths[1], channels, growth, block_drop_rate)
        channels += depths[1] * growth
        self.transition2 = _transition(channels)
        channels //= 2
        self.layer3 = _dense_block(depths[2], channels, growth, block_drop_rate)
        channels += depths[2] * growth
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.attach_head(channels, num_classes, global_pool=global_pool, drop_rate=drop_rate)

    def initialise(self, module: nn.Module) -> None:
        """He's normal (fan-in) for convolutions and zero linear biases (as in torchvision's and OKDDip's DenseNet)."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward_features(self, inputs: Tensor) -> Tensor:
        features = self.transition1(self.layer1(self.stem(inputs)))
        features = self.transition2(self.layer2(features))
        return self.act(self.norm(self.layer3(features)))


def _dense_block(depth: int, in_channels: int, growth: int, drop_rate: float) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(in_channels + index * growth, growth, drop_rate) for index in range(depth)))


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            act=nn.ReLU(inplace=True),
            conv=nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False),
            pool=nn.AvgPool2d(kernel_size=2),
        )
    )


default_cfgs = cifar_configurations(("densenet40_12_cifar",), first_conv="stem")


@register_model
def densenet40_12_cifar(pretrained: bool = False, **options: Any) -> DenseNet:
    """DenseNet-BC of depth 40 and growth 12, features of 132 channels."""
    return build_model_with_cfg(DenseNet, "densenet40_12_cifar", pretrained, depths=(6, 6, 6), growth=12, **options)
