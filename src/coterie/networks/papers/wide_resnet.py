"""Wide residual networks (WRN-depth-width) for CIFAR.

Zagoruyko and Komodakis, "Wide Residual Networks" (arXiv 1605.07146): pre-activation basic blocks, three stages of
(depth - 4) / 6 blocks with 16, 32 and 64 channels times the width factor. Pitfalls:

- A block that changes the shape normalises once for both its convolutions and its shortcut; the shortcut is a plain 1x1 convolution.
- A last BatchNorm and ReLU (``norm``, ``act``) follow ``layer3``; the last feature map is their output.
- The OKDDip family's "WRN-20-8" is a different network: ``wrn20_8_okddip_cifar`` in ``resnet``.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from coterie.networks.papers.image_classifier import ImageClassifier, cifar_configurations


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice, around a shortcut.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: stride of the first convolution and the shortcut.
        drop_rate: dropout between the convolutions.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(drop_rate)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.changes_shape = stride != 1 or in_channels != channels
        if self.changes_shape:
            self.shortcut = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        activated = self.act1(self.norm1(inputs))
        residual = self.drop(self.act2(self.norm2(self.conv1(activated))))
        return self.conv2(residual) + (self.shortcut(activated) if self.changes_shape else inputs)


class WideResNet(ImageClassifier):
    """``stem`` (a convolution), ``layer1`` to ``layer3`` (the last two halve the size), ``norm``, ``act``, ``fc``.

    Args:
        depth: 6n + 4 for n blocks a stage.
        width_factor: multiplies 16, 32 and 64 channels.
        num_classes: 0 for no classifier.
        in_chans: channels of the images.
        global_pool: pooling before the classifier.
        drop_rate: dropout on the classifier's input (timm's meaning; not in the paper).
        block_drop_rate: dropout between the convolutions of each block (the paper's; it reports 0 and 0.3).
    """

    def __init__(
        self,
        depth: int,
        width_factor: int,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        block_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        first, second, third = (width * width_factor for width in (16, 32, 64))
        self.stem = nn.Conv2d(in_chans, 16, kernel_size=3, padding=1, bias=False)
        self.layer1 = _stage(blocks, 16, first, 1, block_drop_rate)
        self.layer2 = _stage(blocks, first, second, 2, block_drop_rate)
        self.layer3 = _stage(blocks, second, third, 2, block_drop_rate)
        self.norm = nn.BatchNorm2d(third)
        self.act = nn.ReLU(inplace=True)
        self.attach_head(third, num_classes, global_pool=global_pool, drop_rate=drop_rate)

    def forward_features(self, inputs: Tensor) -> Tensor:
        return self.act(self.norm(self.layer3(self.layer2(self.layer1(self.stem(inputs))))))


def _stage(blocks: int, in_channels: int, channels: int, stride: int, drop_rate: float) -> nn.Sequential:
    later = (PreActivationBlock(channels, channels, 1, drop_rate) for _ in range(blocks - 1))
    return nn.Sequential(PreActivationBlock(in_channels, channels, stride, drop_rate), *later)


default_cfgs = cifar_configurations(("wrn16_2_cifar", "wrn28_10_cifar", "wrn40_2_cifar"), first_conv="stem")


@register_model
def wrn16_2_cifar(pretrained: bool = False, **options: Any) -> WideResNet:
    """WRN-16-2: two blocks a stage, 32, 64 and 128 channels."""
    return build_model_with_cfg(WideResNet, "wrn16_2_cifar", pretrained, depth=16, width_factor=2, **options)


@register_model
def wrn28_10_cifar(pretrained: bool = False, **options: Any) -> WideResNet:
    """WRN-28-10: four blocks a stage, 160, 320 and 640 channels."""
    return build_model_with_cfg(WideResNet, "wrn28_10_cifar", pretrained, depth=28, width_factor=10, **options)


@register_model
def wrn40_2_cifar(pretrained: bool = False, **options: Any) -> WideResNet:
    """WRN-40-2: six blocks a stage, 32, 64 and 128 channels."""
    return build_model_with_cfg(WideResNet, "wrn40_2_cifar", pretrained, depth=40, width_factor=2, **options)
