from __future__ import annotations

import math

import pytest
import torch

from coterie.tasks.restoration.data.kernels import gaussian_kernel, sinc_kernel


def spread(kernel):
    """Second moments along the axes and between them."""
    axis = torch.arange(len(kernel)) - (len(kernel) - 1) / 2
    return [
        (kernel * a * b).sum().item()
        for a, b in ((axis[None], axis[None]), (axis[:, None], axis[:, None]), (axis[None], axis[:, None]))
    ]


def test_gaussians_have_their_widths_and_directions():
    x, y, mixed = spread(gaussian_kernel(21, 2.0, 1.0))
    assert (x, y) == (pytest.approx(4, rel=0.01), pytest.approx(1, rel=0.01))
    assert mixed == pytest.approx(0, abs=1e-5)
    x, y, mixed = spread(gaussian_kernel(21, 2.0, 1.0, rotation=math.pi / 4))
    assert x == pytest.approx(y, rel=1e-4)
    assert mixed == pytest.approx(1.5, rel=0.02)  # (4 - 1) / 2
    torch.testing.assert_close(gaussian_kernel(9, 1.5, 1.5, shape=1.0), gaussian_kernel(9, 1.5, 1.5))


def test_exponents_make_them_boxy_or_pointed():
    pointed, boxy = gaussian_kernel(21, 3, 3, shape=0.5), gaussian_kernel(21, 3, 3, shape=4.0)
    plain = gaussian_kernel(21, 3, 3)
    assert pointed[10, 11] / pointed[10, 10] < 0.9 < plain[10, 11] / plain[10, 10]
    assert boxy[10, 10].item() == pytest.approx(boxy[10, 8].item(), rel=0.05)
    plateau = gaussian_kernel(21, 3, 3, shape=2.0, plateau=True)
    assert (plateau[10, 10] / plateau[10, 13]).item() == pytest.approx(2, rel=1e-4)  # 1 / (1 + 1) at one width


def test_sinc_lets_low_frequencies_pass_and_high_ones_not():
    kernel = sinc_kernel(21, math.pi / 3)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    assert kernel.min() < 0  # it rings
    gain = torch.fft.fft2(kernel.double(), (64, 64)).abs()
    assert gain[0, 5].item() == pytest.approx(1, abs=0.1)
    assert gain[0, 25].item() < 0.1
