"""Figures of restored images beside the true ones: fidelity, and how much fine detail there is. Pure functions, one number an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # BT.601 in 16 to 235, as the field measures super-resolution
OFFSET = 16 / 255
CUTOFF = 0.25  # cycles a pixel; a grid can hold 0.5


def luma(images: Tensor) -> Tensor:
    """Y of RGB images [B, 3, H, W] in 0 to 1, as [B, 1, H, W] in 16/255 to 235/255."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True) + OFFSET


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio on Y in dB, [B]; of equal images infinite. Images are [B, 3, H, W] in 0 to 1."""
    found: Tensor = peak_signal_noise_ratio(
        luma(images), luma(references), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return found


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity on Y, [B], 1 of equal images: a Gaussian window of 1.5 pixels, as published."""
    found = structural_similarity_index_measure(luma(images), luma(references), data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found


def _power(images: Tensor) -> tuple[Tensor, Tensor]:
    """Power [B, H, W'] of each frequency of Y, and the frequencies in cycles a pixel [H, W'].

    The mean is taken off and a Hann window put on, since an image's borders do not continue one another.
    """
    values = luma(images.float())[:, 0]
    height, width = values.shape[-2:]
    window = torch.outer(
        torch.hann_window(height, periodic=False, device=values.device),
        torch.hann_window(width, periodic=False, device=values.device),
    )
    values = (values - values.mean((1, 2), keepdim=True)) * window
    found = torch.fft.rfft2(values, norm="ortho").abs().square()
    # Frequencies but the first and last column stand for two, of which the real transform keeps one.
    twice = torch.full((found.shape[-1],), 2.0, device=values.device)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    vertical = torch.fft.fftfreq(height, device=values.device)[:, None]
    horizontal = torch.fft.rfftfreq(width, device=values.device)[None]
    return found * twice, (vertical.square() + horizontal.square()).sqrt()


def high_frequency_power(images: Tensor, cutoff: float = CUTOFF) -> Tensor:
    """Power of Y above a frequency, [B]; a restored image's over the true one's is the high-frequency ratio.

    Args:
        images: [B, 3, H, W] in 0 to 1.
        cutoff: in cycles a pixel; half of what the grid can hold.
    """
    power, frequencies = _power(images)
    return torch.where(frequencies > cutoff, power, 0.0).sum((1, 2))


def spectrum(images: Tensor, bins: int = 24) -> Tensor:
    """Mean power of Y in rings of equal width from 0 to 0.5 cycles a pixel, [B, bins]."""
    power, frequencies = _power(images)
    ring = (frequencies * 2 * bins).long().clamp(max=bins)  # the corners beyond 0.5 are left out
    counts = torch.zeros(bins + 1, device=power.device).index_add_(
        0, ring.flatten(), torch.ones_like(power[0]).flatten()
    )
    sums = torch.zeros(len(power), bins + 1, device=power.device).index_add_(1, ring.flatten(), power.flatten(1))
    return (sums / counts.clamp(min=1))[:, :bins]


def sorted_distance(values: Tensor, others: Tensor) -> Tensor:
    """Distance of two distributions of numbers, [B] (Wasserstein-1): of edge magnitudes, how differently sharp two images are, wherever their edges lie.

    Args:
        values, others: [B, ...] of equal shapes.
    """
    return (values.flatten(1).sort(1).values - others.flatten(1).sort(1).values).abs().mean(1)
