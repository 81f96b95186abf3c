"""ResNets for CIFAR: He's of basic blocks, and the two bottleneck networks of the OKDDip family.

He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), section 4.2: a 3x3 stem of 16 channels and
three stages of n blocks with 16, 32 and 64 channels, 6n + 2 layers. Pitfalls:

- Where a block changes the shape, the shortcut is a 1x1 convolution with BatchNorm (He's option B), as in OKDDip's code; He used option A on CIFAR (zero
  padding, no parameters), so these networks have 2,752 more parameters than his.
- The "ResNet-110" behind the published tables of OKDDip, PCL and MCL-OKD is not He's: it has bottlenecks [12, 12, 12]
  and features of 256 channels (``resnet110_okddip_cifar``, 1.17M parameters; He's has 1.74M). The one in ONE's repository
  is a third network, bottlenecks [18, 18, 18] with 164 layers.
- The family's "WRN-20-8" is not a wide residual network of Zagoruyko and Komodakis but the same bottleneck network with inner convolutions eight times as wide
  (``wrn20_8_okddip_cifar``); the actual WRNs are in ``wide_resnet``.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from coterie.networks.papers.image_classifier import ImageClassifier, cifar_configurations, conv_norm_act


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
            norm=nn.BatchNorm2d(out_channels),
        )
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; the output has ``channels`` channels."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        residual = self.act1(self.norm1(self.conv1(inputs)))
        residual = self.norm2(self.conv2(residual))
        return self.act2(residual + self.shortcut(inputs))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the output has 4 * ``channels`` channels."""

    expansion = 4
    inner_factor = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        inner_channels, out_channels = channels * self.inner_factor, channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, inner_channels, kernel_size=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner_channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner_channels, inner_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner_channels)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inner_channels, out_channels, kernel_size=1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        residual = self.act1(self.norm1(self.conv1(inputs)))
        residual = self.act2(self.norm2(self.conv2(residual)))
        residual = self.norm3(self.conv3(residual))
        return self.act3(residual + self.shortcut(inputs))


class WideBottleneck(Bottleneck):
    """A bottleneck block with wide inner convolutions of 8 * ``channels`` channels."""

    inner_factor = 8


class ResNet(ImageClassifier):
    """A residual network for small images: ``stem``, ``layer1`` to ``layer3`` (the last two halve the size), ``fc``.

    The papers share the stem and the first two stages and give each branch ``layer3`` and the classifier.

    Args:
        block: the kind of block.
        depths: blocks of each stage.
        widths: channels of each stage, before the block's expansion; the stem has those of the first.
        num_classes: 0 for no classifier.
        in_chans: channels of the images.
        global_pool: pooling before the classifier.
        drop_rate: dropout on the classifier's input.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int],
        widths: tuple[int, int, int] = (16, 32, 64),
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = conv_norm_act(in_chans, widths[0])
        first, second, third = (width * block.expansion for width in widths)
        self.layer1 = _stage(block, depths[0], widths[0], widths[0], stride=1)
        self.layer2 = _stage(block, depths[1], first, widths[1], stride=2)
        self.layer3 = _stage(block, depths[2], second, widths[2], stride=2)
        self.attach_head(third, num_classes, global_pool=global_pool, drop_rate=drop_rate)

    def forward_features(self, inputs: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(self.stem(inputs))))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], depth: int, in_channels: int, channels: int, stride: int
) -> nn.Sequential:
    later = (block(channels * block.expansion, channels, 1) for _ in range(depth - 1))
    return nn.Sequential(block(in_channels, channels, stride), *later)


default_cfgs = cifar_configurations(
    (
        "resnet8_cifar",
        "resnet20_cifar",
        "resnet32_cifar",
        "resnet44_cifar",
        "resnet56_cifar",
        "resnet110_cifar",
        "resnet110_okddip_cifar",
        "wrn20_8_okddip_cifar",
    ),
    first_conv="stem.conv",
)


def _he_resnet(name: str, depth: int, pretrained: bool, **options: Any) -> ResNet:
    blocks = (depth - 2) // 6
    return build_model_with_cfg(ResNet, name, pretrained, block=BasicBlock, depths=(blocks,) * 3, **options)


@register_model
def resnet8_cifar(pretrained: bool = False, **options: Any) -> ResNet:
    """ResNet-8: basic blocks [1, 1, 1]. Not in He's paper; the smallest network of this layout, used by distillation papers."""
    return _he_resnet("resnet8_cifar", 8, pretrained, **options)


@register_model
def resnet20_cifar(pretrained: bool = False, **options: Any) -> ResNet:
    """ResNet-20: basic blocks [3, 3, 3]."""
    return _he_resnet("resnet20_cifar", 20, pretrained, **options)


@register_model
def resnet32_cifar(pretrained: bool = False, **options: Any) -> ResNet:
    """ResNet-32: basic blocks [5, 5, 5]. OKDDip's first network: 0.113M parameters shared, 0.360M in a branch."""
    return _he_resnet("resnet32_cifar", 32, pretrained, **options)


@register_model
def resnet44_cifar(pretrained: bool = False, **options: Any) -> ResNet:
    """ResNet-44: basic blocks [7, 7, 7]."""
    return _he_resnet("resnet44_cifar", 44, pretrained, **options)


@register_model
def resnet56_cifar(pretrained: bool = False, **options: Any) -> ResNet:
    """ResNet-56: basic blocks [9, 9, 9]."""
    return _he_resnet("resnet56_cifar", 56, pretrained, **options)


@register_model
def resnet110_cifar(pretrained: bool = False, **options: Any) -> ResNet:
    """He's ResNet-110: basic blocks [18, 18, 18]. The OKDDip family's is ``resnet110_okddip_cifar``."""
    return _he_resnet("resnet110_cifar", 110, pretrained, **options)


@register_model
def resnet110_okddip_cifar(pretrained: bool = False, **options: Any) -> ResNet:
    """The OKDDip family's "ResNet-110": bottlenecks [12, 12, 12], 9n + 2 layers, 256 features. Not He's."""
    return build_model_with_cfg(
        ResNet, "resnet110_okddip_cifar", pretrained, block=Bottleneck, depths=(12, 12, 12), **options
    )


@register_model
def wrn20_8_okddip_cifar(pretrained: bool = False, **options: Any) -> ResNet:
    """The OKDDip family's "WRN-20-8": bottlenecks [2, 2, 2] with inner width times 8. Not Zagoruyko's."""
    return build_model_with_cfg(
        ResNet, "wrn20_8_okddip_cifar", pretrained, block=WideBottleneck, depths=(2, 2, 2), **options
    )
