"""Metrics of restored images: fidelity to the reference, and amount of fine detail. Pure functions, one value for each image."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # BT.601 in 16 to 235, as usual in super-resolution
OFFSET = 16 / 255
CUTOFF = 0.25  # cycles per pixel; the Nyquist limit is 0.5


def luma(images: Tensor) -> Tensor:
    """Returns Y of RGB images [B, 3, H, W] in 0 to 1, as [B, 1, H, W] in 16/255 to 235/255."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True) + OFFSET


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio on Y in dB, [B]; infinite for equal images. Images are [B, 3, H, W] in 0 to 1."""
    found: Tensor = peak_signal_noise_ratio(
        luma(images), luma(references), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return found


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity on Y, [B], 1 for equal images; with a Gaussian window of 1.5 pixels, as published."""
    found = structural_similarity_index_measure(luma(images), luma(references), data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found


def _power(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the power [B, H, W'] of each frequency of Y, and the frequencies in cycles per pixel [H, W'].

    The mean is subtracted and a Hann window applied, since images are not periodic.
    """
    values = luma(images.float())[:, 0]
    height, width = values.shape[-2:]
    window = torch.outer(
        torch.hann_window(height, periodic=False, device=values.device),
        torch.hann_window(width, periodic=False, device=values.device),
    )
    values = (values - values.mean((1, 2), keepdim=True)) * window
    found = torch.fft.rfft2(values, norm="ortho").abs().square()
    # Frequencies except the first and last column represent two, of which the real transform keeps one.
    twice = torch.full((found.shape[-1],), 2.0, device=values.device)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    vertical = torch.fft.fftfreq(height, device=values.device)[:, None]
    horizontal = torch.fft.rfftfreq(width, device=values.device)[None]
    return found * twice, (vertical.square() + horizontal.square()).sqrt()


def high_frequency_power(images: Tensor, cutoff: float = CUTOFF) -> Tensor:
    """Power of Y above a frequency, [B]. The high-frequency ratio is that of the restored image divided by that of the reference.

    Args:
        images: [B, 3, H, W] in 0 to 1.
        cutoff: in cycles per pixel; by default half of the Nyquist limit.
    """
    power, frequencies = _power(images)
    return torch.where(frequencies > cutoff, power, 0.0).sum((1, 2))


def spectrum(images: Tensor, bins: int = 24) -> Tensor:
    """Mean power of Y in rings of equal width from 0 to 0.5 cycles per pixel, [B, bins]."""
    power, frequencies = _power(images)
    ring = (frequencies * 2 * bins).long().clamp(max=bins)  # the corners beyond 0.5 are excluded
    counts = torch.zeros(bins + 1, device=power.device).index_add_(
        0, ring.flatten(), torch.ones_like(power[0]).flatten()
    )
    sums = torch.zeros(len(power), bins + 1, device=power.device).index_add_(1, ring.flatten(), power.flatten(1))
    return (sums / counts.clamp(min=1))[:, :bins]


def sorted_distance(values: Tensor, others: Tensor) -> Tensor:
    """Wasserstein-1 distance of two distributions of values, [B]. For edge magnitudes it measures the difference in sharpness, wherever edges are.

    Args:
        values, others: [B, ...] of equal shapes.
    """
    return (values.flatten(1).sort(1).values - others.flatten(1).sort(1).values).abs().mean(1)
