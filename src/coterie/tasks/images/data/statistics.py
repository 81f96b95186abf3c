"""Mean and standard deviation of pixels: published values of known data sets, and measured ones."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from torchvision import transforms

from coterie.data.arrays import Pixels
from coterie.data.cache import digest, remembered
from coterie.randomness import derive_seed, drawing_from
from coterie.tasks.images.data.raw import Files, Samples, Statistics, sample_numbers, to_image

# Pixels in 0..1, over the training images. CIFAR: the family's code (OKDDip); they agree with the measured values to four digits.
# CINIC-10: its README. Fashion-MNIST: the values that are widely published for its 60,000 training images.
KNOWN: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cinic10": ((0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
}
MEASURED_AT_MOST = 2_000  # images from which streamed data's statistics are measured


def measure(images: Pixels) -> Statistics:
    """Computes mean and standard deviation of each channel, over all pixels of all images.

    Args:
        images: uint8 [N, H, W, C].
    """
    return _from_counts(_counts(images))


def measure_streamed(samples: Samples, side: int) -> Statistics:
    """Computes statistics of resized images: shorter side resized to ``side`` pixels, then centre crop.

    At most 2,000 images from all over the data are read; for files, the result is cached until one of the files changes.
    """
    chosen = sample_numbers(samples, MEASURED_AT_MOST)
    fit = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])

    def counts(number: int) -> NDArray[np.int64]:
        pixels = np.asarray(fit(to_image(samples, number)))
        return _counts(pixels.reshape(1, side, side, -1))

    if not isinstance(samples, Files):  # custom code may not be thread-safe, and may draw random numbers
        with drawing_from(derive_seed(0, "statistics")):
            return _from_counts(sum(map(counts, chosen), np.zeros(1, dtype=np.int64)))

    def measured() -> Statistics:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return _from_counts(sum(pool.map(counts, chosen), np.zeros(1, dtype=np.int64)))

    state = samples.stored.take(chosen).state()
    key = digest(f"statistics 3 at {side}", state)
    mean, std = remembered("statistics", key, measured)
    return tuple(mean), tuple(std)


def _counts(images: Pixels) -> NDArray[np.int64]:
    """Counts each byte value in each channel, int64 [C, 256]."""
    return np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(images.shape[-1])])


def _from_counts(counts: NDArray[np.int64]) -> Statistics:
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    variance = counts @ values**2 / counts.sum(1) - mean**2
    # Avoids division by zero for a constant channel; one grey level is the smallest difference of bytes.
    std = np.sqrt(np.maximum(variance, 255.0**-2))
    return tuple(map(float, mean)), tuple(map(float, std))
