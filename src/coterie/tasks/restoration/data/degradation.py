"""Makes low-resolution images from high-resolution ones, simulating cameras, compression and transmission. The result is a function of an image and a seed.

Source: Real-ESRGAN (Wang et al., ICCVW 2021, arXiv 2107.10833), section 3: two orders of blur, resizing, noise and JPEG. Constants are its published x4 options.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from coterie.tasks.restoration.data.kernels import gaussian_kernel, sinc_kernel

Degradation = Literal["bicubic", "first_order", "real_esrgan"]
SIZES = range(7, 22, 2)  # of kernels
SHAPES = ("isotropic", "anisotropic", "generalized", "generalized_anisotropic", "plateau", "plateau_anisotropic")
SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
GENERALIZED, PLATEAU = (0.5, 4.0), (1.0, 2.0)  # ranges of the exponent
SINC = 0.1  # share of the kernels
FINAL_SINC = 0.8
RESIZERS: tuple[str, ...] = ("area", "bilinear", "bicubic")
GRAY = 0.4  # share of the noise that is equal in all channels


@dataclass(frozen=True)
class Order:
    """One order of the degradation.

    Attributes:
        blurred: share of the images to blur.
        sigma: range of the blur's width.
        resized: shares to enlarge, to reduce, and to keep at their size.
        factors: range of the resizing factor.
        gaussian: share with Gaussian instead of Poisson noise.
        noise: range of the Gaussian's standard deviation, on a scale of 255.
        poisson: range of the Poisson noise's factor.
        quality: range of the JPEG quality.
    """

    blurred: float
    sigma: tuple[float, float]
    resized: tuple[float, float, float]
    factors: tuple[float, float]
    noise: tuple[float, float]
    poisson: tuple[float, float]
    gaussian: float = 0.5
    quality: tuple[int, int] = (30, 95)


FIRST = Order(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3.0))
SECOND = Order(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5))


class Draws:
    """Random numbers drawn in sequence from a seed, on the CPU, so that they do not depend on the device."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator, dtype=torch.float64).item()

    def chance(self, share: float) -> bool:
        return self.between(0, 1) < share

    def index(self, shares: tuple[float, ...]) -> int:
        """Draw an index with these probabilities, which sum to 1."""
        value, reached = self.between(0, 1), 0.0
        for number, share in enumerate(shares):
            reached += share
            if value < reached:
                return number
        return len(shares) - 1

    def whole(self, low: int, high: int) -> int:
        """Draw an integer from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))


def degrade(image: Tensor, scale: int, kind: Degradation, seed: int) -> Tensor:
    """Make the low-resolution image of a high-resolution one.

    Args:
        image: [3, H, W] in 0 to 1, on any device (JPEG is computed on the CPU); H and W multiples of ``scale``.
        scale: factor by which a side becomes smaller.
        kind: ``bicubic``: downscaling only; ``first_order``: blur, downscaling, noise, JPEG; ``real_esrgan``: two orders.
        seed: seed of all random values.

    Returns:
        [3, H / scale, W / scale] in 0 to 1.
    """
    small = (image.shape[-2] // scale, image.shape[-1] // scale)
    if kind == "bicubic":
        return _rounded(resize(image, small, "bicubic", average=True))
    draws = Draws(seed)
    if kind == "first_order":
        image = blur(image, draw_kernel(draws, FIRST.sigma))
        image = resize(image, small, RESIZERS[draws.whole(0, 2)])
        image = draw_noise(image, FIRST, draws)
        return jpeg(image, draws.whole(*FIRST.quality))
    full = image.shape[-2:]
    image = blur(image, draw_kernel(draws, FIRST.sigma))
    factor = draw_factor(draws, FIRST)
    image = resize(image, (round(full[0] * factor), round(full[1] * factor)), RESIZERS[draws.whole(0, 2)])
    image = jpeg(draw_noise(image, FIRST, draws), draws.whole(*FIRST.quality))
    if draws.chance(SECOND.blurred):
        image = blur(image, draw_kernel(draws, SECOND.sigma))
    factor = draw_factor(draws, SECOND)
    image = resize(image, (round(small[0] * factor), round(small[1] * factor)), RESIZERS[draws.whole(0, 2)])
    image = draw_noise(image, SECOND, draws)
    quality, last = draws.whole(*SECOND.quality), RESIZERS[draws.whole(0, 2)]
    final = None
    if draws.chance(FINAL_SINC):
        final = sinc_kernel(SIZES[draws.whole(0, len(SIZES) - 1)], draws.between(math.pi / 3, math.pi))
    if draws.chance(0.5):  # ringing comes before or after compression with equal probability
        image = resize(image, small, last)
        image = jpeg(image if final is None else blur(image, final), quality)
    else:
        image = resize(jpeg(image, quality), small, last)
        image = image if final is None else blur(image, final)
    return _rounded(image)


def draw_kernel(draws: Draws, sigma: tuple[float, float]) -> Tensor:
    """Draw a kernel of Real-ESRGAN's mixture, [size, size]."""
    size = SIZES[draws.whole(0, len(SIZES) - 1)]
    if draws.chance(SINC):
        return sinc_kernel(size, draws.between(math.pi / 3 if size < 13 else math.pi / 5, math.pi))
    shape = SHAPES[draws.index(SHARES)]
    first = draws.between(*sigma)
    second, rotation = first, 0.0
    if shape.endswith("anisotropic"):
        second, rotation = draws.between(*sigma), draws.between(-math.pi, math.pi)
    if shape.startswith("generalized"):
        return gaussian_kernel(size, first, second, rotation, _exponent(draws, GENERALIZED))
    if shape.startswith("plateau"):
        return gaussian_kernel(size, first, second, rotation, _exponent(draws, PLATEAU), plateau=True)
    return gaussian_kernel(size, first, second, rotation)


def _exponent(draws: Draws, bounds: tuple[float, float]) -> float:
    """Draw an exponent, below or above 1 with equal probability, as in the published code."""
    return draws.between(bounds[0], 1) if draws.chance(0.5) else draws.between(1, bounds[1])


def draw_factor(draws: Draws, order: Order) -> float:
    """Draw the resizing factor of an order."""
    change = draws.index(order.resized)
    if change == 0:
        return draws.between(1, order.factors[1])
    return draws.between(order.factors[0], 1) if change == 1 else 1.0


def draw_noise(image: Tensor, order: Order, draws: Draws) -> Tensor:
    """Add Gaussian or Poisson noise to an image, per channel or the same in all; in 0 to 1."""
    gaussian, gray = draws.chance(order.gaussian), draws.chance(GRAY)
    level = draws.between(*(order.noise if gaussian else order.poisson))
    if gaussian:
        noise = torch.randn((1 if gray else 3, *image.shape[-2:]), generator=draws.generator)
        return (image + noise.to(image.device) * level / 255).clamp(0, 1)
    # Photon counts: as many levels as the 8-bit image has distinct values, rounded up to a power of two.
    source = _rounded(image.cpu())
    source = source.mean(0, keepdim=True) if gray else source
    levels = 2.0 ** math.ceil(math.log2(max(2, (source * 255).round().unique().numel())))
    noise = torch.poisson(source * levels, generator=draws.generator) / levels - source
    return (image + noise.to(image.device) * level).clamp(0, 1)


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve an image [3, H, W] with a kernel [k, k]. Padding is reflect, or replicate if the image is smaller than the kernel."""
    size = kernel.shape[-1]
    pad = size // 2
    mode = "reflect" if pad < min(image.shape[-2:]) else "replicate"
    padded = F.pad(image.unsqueeze(0), (pad, pad, pad, pad), mode=mode)
    weights = kernel.to(image).expand(image.shape[0], 1, size, size)
    return F.conv2d(padded, weights, groups=image.shape[0]).squeeze(0).clamp(0, 1)


def resize(image: Tensor, size: tuple[int, int], how: str, average: bool = False) -> Tensor:
    """Resize an image [3, H, W]; the result is in 0 to 1.

    Args:
        image: in 0 to 1.
        size: height and width, at least 1 each.
        how: area, bilinear or bicubic.
        average: whether bilinear and bicubic use anti-aliasing when they downscale, as image editors do. The published degradation does not: it aliases.
    """
    height, width = max(1, size[0]), max(1, size[1])
    if (height, width) == tuple(image.shape[-2:]):
        return image
    if how == "area":
        return F.interpolate(image.unsqueeze(0), (height, width), mode="area").squeeze(0)
    found = F.interpolate(image.unsqueeze(0), (height, width), mode=how, align_corners=False, antialias=average)
    return found.squeeze(0).clamp(0, 1)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Compress an image as JPEG and decode it, by Pillow on the CPU.

    Args:
        image: [3, H, W] in 0 to 1.
        quality: 1 to 100.
    """
    pixels = (image.clamp(0, 1) * 255).round().to(device="cpu", dtype=torch.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=quality)
    decoded = np.array(Image.open(stream))
    return torch.from_numpy(decoded).permute(2, 0, 1).to(image.device).float() / 255


def _rounded(image: Tensor) -> Tensor:
    """Round to the values of an 8-bit file."""
    return (image.clamp(0, 1) * 255).round() / 255
