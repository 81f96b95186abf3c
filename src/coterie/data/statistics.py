"""Mean and standard deviation of pixels: the known data sets' published ones, and measured ones."""

from __future__ import annotations

import numpy as np

from coterie.data.raw import Pixels, Statistics

# Pixels in 0..1, over the training images. CIFAR: the family's code (OKDDip); they agree with the measured values to four digits.
# CINIC-10: its README. Fashion-MNIST: measured on its 60,000 training images, as widely published.
KNOWN: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cinic10": ((0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
}


def measure(images: Pixels) -> Statistics:
    """Mean and standard deviation of each channel, over all pixels of all images.

    Args:
        images: uint8 [N, H, W, C].
    """
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    std = np.sqrt(np.maximum(counts @ values**2 / counts.sum(1) - mean**2, 1e-12))
    return tuple(map(float, mean)), tuple(map(float, std))
