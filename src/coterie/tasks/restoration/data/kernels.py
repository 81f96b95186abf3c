"""Blur kernels of Real-ESRGAN: generalised Gaussians, and a sinc filter, which causes ringing. Pure functions of their parameters.

Source: Wang et al., Real-ESRGAN, ICCVW 2021, arXiv 2107.10833, section 3, equations 2 to 4 and 7; the formulas are restated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_kernel(
    size: int, sigma_x: float, sigma_y: float, rotation: float = 0.0, shape: float | None = None, plateau: bool = False
) -> Tensor:
    """Return a kernel [size, size] that sums to 1.

    Args:
        size: odd.
        sigma_x, sigma_y: widths along the two axes, in pixels.
        rotation: rotation of the axes, in radians.
        shape: β; None: a Gaussian. Otherwise exp(-q^β / 2), for which 1 gives the Gaussian; with ``plateau``, 1 / (1 + q^β).
        plateau: see ``shape``.

    >>> gaussian_kernel(3, 1.0, 1.0).sum().item()
    1.0
    """
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    x, y = axis[None, :], axis[:, None]
    along = (x * math.cos(rotation) + y * math.sin(rotation)) / sigma_x
    across = (y * math.cos(rotation) - x * math.sin(rotation)) / sigma_y
    quadratic = along.square() + across.square()
    power = quadratic if shape is None else quadratic.pow(shape)
    kernel = 1 / (1 + power) if plateau else torch.exp(-power / 2)
    return (kernel / kernel.sum()).float()


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """Return a low-pass kernel [size, size] that sums to 1. Edges ring, as after strong sharpening or compression.

    Args:
        size: odd.
        cutoff: ω_c in radians per pixel, in (0, π].
    """
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    radius = (axis[:, None].square() + axis[None, :].square()).sqrt()
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius.clamp(min=1e-12))
    middle = (size - 1) // 2
    kernel[middle, middle] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).float()
