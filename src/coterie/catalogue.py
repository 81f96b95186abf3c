"""Names and one-line descriptions of coterie's own networks, as plain text: listing them does not import torch.

The networks are built in the modules that ``coterie.networks.papers.registration`` imports; a test checks that both lists agree.
"""

from __future__ import annotations

from collections.abc import Mapping

NETWORKS: Mapping[str, str] = {
    "tiny_cifar": "Residual network of 8, 16 and 32 channels, 0.02M parameters: demos and tests.",
    "resnet8_cifar": "CIFAR ResNet-8, basic blocks [1, 1, 1], 0.08M parameters.",
    "resnet20_cifar": "CIFAR ResNet-20, basic blocks [3, 3, 3], 0.28M parameters.",
    "resnet32_cifar": "CIFAR ResNet-32, basic blocks [5, 5, 5], 0.47M parameters.",
    "resnet44_cifar": "CIFAR ResNet-44, basic blocks [7, 7, 7], 0.67M parameters.",
    "resnet56_cifar": "CIFAR ResNet-56, basic blocks [9, 9, 9], 0.86M parameters.",
    "resnet110_cifar": "CIFAR ResNet-110 of He et al., basic blocks [18, 18, 18], 1.74M parameters.",
    "resnet110_okddip_cifar": "The OKDDip family's 'ResNet-110', bottlenecks [12, 12, 12], 1.17M parameters.",
    "wrn20_8_okddip_cifar": "The OKDDip family's 'WRN-20-8', wide bottlenecks [2, 2, 2], 6.87M parameters.",
    "wrn16_2_cifar": "Wide ResNet 16-2 of Zagoruyko and Komodakis, 0.70M parameters.",
    "wrn28_10_cifar": "Wide ResNet 28-10 of Zagoruyko and Komodakis, 36.54M parameters.",
    "wrn40_2_cifar": "Wide ResNet 40-2 of Zagoruyko and Komodakis, 2.26M parameters.",
    "vgg16_cifar": "VGG-16 with batch norm and one fully connected layer, 14.77M parameters.",
    "vgg16_okddip_cifar": "The OKDDip family's VGG-16: batch norm, three fully connected layers, 15.30M parameters.",
    "densenet40_12_cifar": "DenseNet-BC of 40 layers and growth 12, dense blocks [6, 6, 6], 0.19M parameters.",
}
"""Name to description; parameters are counted with 100 classes and colour images."""
