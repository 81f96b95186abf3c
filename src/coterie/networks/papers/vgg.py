"""VGG-16 with BatchNorm for CIFAR, with the heads of the two code bases behind the published tables.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (arXiv 1409.1556),
configuration D: five groups of 3x3 convolutions (with bias), each followed by max pooling. Pitfalls:

- Head: one linear layer in MCL-OKD (``vgg16_cifar``, 14.77M parameters), three of width 512 in OKDDip
  (``vgg16_okddip_cifar``, 15.30M); neither has the paper's head of width 4096.
- OKDDip trains its branches with dropout 0.5 between the linear layers and its single network with none, an unequal
  baseline. Here ``drop_rate`` is 0 by default and applies to both.
- Here each pooling but the last is at the start of the next group. The last, which reduces the 2x2 map of a 32x32 image to one value, is the global pooling
  (``max``). At 32x32 this equals the published network exactly; the last feature map keeps a height and a width, and other image sizes work.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from coterie.networks.papers.image_classifier import ImageClassifier, cifar_configurations, conv_norm_act


class VGG(ImageClassifier):
    """VGG-16: groups ``layer1`` to ``layer5`` (each but the first starts with a max pooling), ``hidden``, ``fc``.

    OKDDip shares the first four groups and gives each branch ``layer5`` and the head.

    Args:
        hidden_layers: linear layers of width 512 with ReLU before the classifier.
        num_classes: 0 for no classifier.
        in_chans: channels of the images.
        global_pool: pooling before the head.
        drop_rate: dropout on the input of every linear layer, except the first if there are several.
    """

    suggested_split = "layer5"

    def __init__(
        self,
        hidden_layers: int,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "max",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(*_convolutions(2, in_chans, 64))
        self.layer2 = nn.Sequential(_halving(), *_convolutions(2, 64, 128))
        self.layer3 = nn.Sequential(_halving(), *_convolutions(3, 128, 256))
        self.layer4 = nn.Sequential(_halving(), *_convolutions(3, 256, 512))
        self.layer5 = nn.Sequential(_halving(), *_convolutions(3, 512, 512))
        hidden: list[nn.Module] = []
        for _ in range(hidden_layers):
            hidden += [nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Dropout(drop_rate)]
        self.attach_head(
            512,
            num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
            hidden=nn.Sequential(*hidden[:-1]) if hidden else None,  # the head has the last dropout
        )

    def initialise(self, module: nn.Module) -> None:
        """As in the other networks, but linear weights N(0, 0.01) with bias 0 (as in torchvision's and OKDDip's VGG)."""
        super().initialise(module)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)

    def forward_features(self, inputs: Tensor) -> Tensor:
        return self.layer5(self.layer4(self.layer3(self.layer2(self.layer1(inputs)))))


def _convolutions(depth: int, in_channels: int, channels: int) -> list[nn.Module]:
    inputs = (in_channels, *[channels] * (depth - 1))
    return [conv_norm_act(channels_in, channels, bias=True) for channels_in in inputs]


def _halving() -> nn.MaxPool2d:
    # ceil_mode changes nothing at multiples of 32 and allows images smaller than 16x16.
    return nn.MaxPool2d(kernel_size=2, ceil_mode=True)


default_cfgs = cifar_configurations(("vgg16_cifar", "vgg16_okddip_cifar"), first_conv="layer1.0.conv", pool_size=2)


@register_model
def vgg16_cifar(pretrained: bool = False, **options: Any) -> VGG:
    """VGG-16 with BatchNorm and one linear layer, as in MCL-OKD."""
    return build_model_with_cfg(VGG, "vgg16_cifar", pretrained, hidden_layers=0, **options)


@register_model
def vgg16_okddip_cifar(pretrained: bool = False, **options: Any) -> VGG:
    """VGG-16 with BatchNorm and three linear layers, as in OKDDip; its branches used ``drop_rate=0.5``."""
    return build_model_with_cfg(VGG, "vgg16_okddip_cifar", pretrained, hidden_layers=2, **options)
