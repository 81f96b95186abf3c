from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from coterie.tasks.restoration.data import degradation
from coterie.tasks.restoration.data.degradation import FIRST, Draws, degrade, draw_noise


@pytest.fixture
def image():
    rough = torch.rand(1, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(rough, (96, 64), mode="bicubic").clamp(0, 1)[0]


@pytest.mark.parametrize("kind", ["bicubic", "first_order", "real_esrgan"])
@pytest.mark.parametrize("scale", [2, 4])
def test_it_is_a_function_of_image_and_seed(image, kind, scale):
    before = torch.get_rng_state()
    found = degrade(image, scale, kind, 7)
    assert found.shape == (3, 96 // scale, 64 // scale)
    assert 0 <= found.min() <= found.max() <= 1
    torch.testing.assert_close(found * 255, (found * 255).round(), atol=1e-3, rtol=0)  # as an 8-bit file holds it
    assert torch.equal(found, degrade(image, scale, kind, 7))
    assert torch.equal(found, degrade(image, scale, kind, 8)) == (kind == "bicubic")
    assert torch.equal(before, torch.get_rng_state())


def test_every_seed_gives_a_picture_of_the_image(image):
    """Whatever is drawn, kernels wider than the image among it."""
    small = F.interpolate(image[None], (16, 16), mode="area")[0]
    for seed in range(40):
        found = degrade(small, 4, "real_esrgan", seed)
        assert found.shape == (3, 4, 4)
        assert torch.isfinite(found).all()
    plain = degrade(image, 4, "bicubic", 0)
    away = [(degrade(image, 4, kind, 3) - plain).abs().mean().item() for kind in ("first_order", "real_esrgan")]
    assert all(0.001 < each < 0.25 for each in away)


def test_draws_follow_their_shares():
    draws = Draws(0)
    counts = Counter(draws.index(degradation.SHARES) for _ in range(4000))
    assert sum(degradation.SHARES) == pytest.approx(1)
    for number, share in enumerate(degradation.SHARES):
        assert counts[number] / 4000 == pytest.approx(share, abs=0.03)
    factors = [degradation.draw_factor(draws, FIRST) for _ in range(1000)]
    assert sum(each > 1 for each in factors) / 1000 == pytest.approx(0.2, abs=0.05)
    assert sum(each == 1 for each in factors) / 1000 == pytest.approx(0.1, abs=0.05)
    assert 0.15 <= min(factors) < max(factors) <= 1.5
    for _ in range(200):
        kernel = degradation.draw_kernel(draws, FIRST.sigma)
        assert len(kernel) in degradation.SIZES
        assert kernel.sum().item() == pytest.approx(1, abs=1e-4)


def test_noise_has_no_bias_and_may_be_gray():
    slope = torch.linspace(0.3, 0.7, 64 * 64).reshape(1, 64, 64).expand(3, 64, 64)
    seen = set()
    for seed in range(30):
        noise = draw_noise(slope, FIRST, Draws(seed)) - slope
        assert noise.mean().abs() < 0.02
        seen.add(torch.equal(noise[0], noise[1]))
    assert seen == {True, False}


def test_stronger_compression_takes_more_away(image):
    lost = [(degradation.jpeg(image, quality) - image).square().mean().item() for quality in (95, 60, 30)]
    assert lost == sorted(lost)
    assert lost[0] > 0


def test_blur_keeps_flat_images_and_mirrors_borders():
    kernel = torch.full((5, 5), 1 / 25)
    flat = torch.full((3, 8, 8), 0.3)
    torch.testing.assert_close(degradation.blur(flat, kernel), flat)
    torch.testing.assert_close(degradation.blur(flat[:, :2, :2], kernel), flat[:, :2, :2])
