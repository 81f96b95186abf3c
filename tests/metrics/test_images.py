from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from coterie.metrics.images import high_frequency_power, luma, psnr, sorted_distance, spectrum, ssim


@pytest.fixture
def images():
    rough = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    return F.interpolate(rough, (24, 20), mode="bilinear")


def smooth(images):
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def test_luma_is_the_fields():
    ends = torch.tensor([[0.0, 1.0]]).expand(3, 2).reshape(1, 3, 1, 2)
    assert (255 * luma(ends)).flatten().tolist() == pytest.approx([16, 235], abs=1e-3)


def test_psnr_is_of_each_image(images):
    other = (images + torch.tensor([0.1, 0.02]).view(2, 1, 1, 1)).clone()
    shift = (65.481 + 128.553 + 24.966) / 255
    expected = [-20 * math.log10(0.1 * shift), -20 * math.log10(0.02 * shift)]
    assert psnr(other, images).tolist() == pytest.approx(expected, rel=1e-4)
    assert torch.isinf(psnr(images, images)).all()


def test_ssim_is_one_for_equal_images_and_falls_with_blur(images):
    assert ssim(images, images).tolist() == pytest.approx([1, 1], abs=1e-5)
    once, twice = ssim(smooth(images), images), ssim(smooth(smooth(images)), images)
    assert (twice < once).all()
    assert (once < 1).all()


def test_power_is_where_the_frequency_is():
    columns = torch.arange(32)
    for cycles, high in ((4, False), (12, True)):
        wave = 0.5 + 0.4 * torch.sin(2 * math.pi * cycles / 32 * columns).expand(1, 3, 32, 32)
        share = high_frequency_power(wave) / high_frequency_power(wave, cutoff=-1.0)
        assert (share.item() > 0.99) == high
        assert share.item() > 0.99 or share.item() < 0.01
        ring = spectrum(wave, bins=16)[0].argmax().item()
        assert ring == cycles  # of 16 rings to 0.5 cycles a pixel, cycles / 32 stands in the ring of that number


def test_all_power_is_counted(images):
    values = luma(images)[:, 0]
    window = torch.outer(torch.hann_window(24, periodic=False), torch.hann_window(20, periodic=False))
    expected = ((values - values.mean((1, 2), keepdim=True)) * window).square().sum((1, 2))
    torch.testing.assert_close(high_frequency_power(images, cutoff=-1.0), expected)  # Parseval
    assert (high_frequency_power(smooth(images)) < 0.8 * high_frequency_power(images)).all()


def test_distributions_are_compared_wherever_their_values_lie():
    values = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    others = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 4.0]])
    assert sorted_distance(values, others).tolist() == [0.0, 2.0]
