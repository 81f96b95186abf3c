from __future__ import annotations

import math

import pytest
import torch

from coterie.errors import CoterieError
from coterie.losses.perceptual import dists, sobel_magnitude


@pytest.fixture
def stages():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 4, 5), (2, 2, 2, 3)]
    return [[torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes] for _ in range(2)]


def slow(features, others, alpha, beta):
    """Channel by channel, in Python's numbers."""
    found = []
    for sample in range(2):
        total, channel = 0.0, 0
        for x, y in zip(features, others, strict=True):
            for a, b in zip(x[sample].flatten(1).tolist(), y[sample].flatten(1).tolist(), strict=True):
                mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
                var_a = sum((v - mean_a) ** 2 for v in a) / len(a)
                var_b = sum((v - mean_b) ** 2 for v in b) / len(b)
                both = sum(v * w for v, w in zip(a, b, strict=True)) / len(a) - mean_a * mean_b
                total += alpha[channel] * (2 * mean_a * mean_b + 1e-6) / (mean_a**2 + mean_b**2 + 1e-6)
                total += beta[channel] * (2 * both + 1e-6) / (var_a + var_b + 1e-6)
                channel += 1
        found.append(1 - total / (sum(alpha) + sum(beta)))
    return found


def test_dists_equals_a_slow_reference(stages):
    alpha, beta = [0.1, 0.4, 0.0, 1.0, 0.3], [0.5, 0.2, 0.9, 0.0, 0.7]
    found = dists(*stages, torch.tensor(alpha), torch.tensor(beta))
    assert found.tolist() == pytest.approx(slow(*stages, alpha, beta), rel=1e-5)
    assert dists(*stages).tolist() == pytest.approx(slow(*stages, [1.0] * 5, [1.0] * 5))


def test_it_is_nothing_for_equal_images_symmetric_and_has_a_gradient(stages):
    first, second = stages
    assert dists(first, first).tolist() == pytest.approx([0, 0], abs=1e-12)
    torch.testing.assert_close(dists(first, second), dists(second, first))
    own = first[1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dists([first[0], x], second), own)


def test_features_and_weights_that_do_not_fit(stages):
    with pytest.raises(CoterieError, match="equal shapes"):
        dists(stages[0], stages[1][:1])
    with pytest.raises(CoterieError, match=r"alpha \[4\]: expected one weight for each of 5"):
        dists(*stages, torch.ones(4), torch.ones(5))


def test_edges_equal_a_slow_reference():
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = image.mean(1)[0]
    padded = [[0.0] * 6, *[[0.0, *row, 0.0] for row in plain.tolist()], [0.0] * 6]
    kernel = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    expected = torch.empty(4, 4, dtype=torch.float64)
    for y in range(4):
        for x in range(4):
            window = [[padded[y + i][x + j] for j in range(3)] for i in range(3)]
            across = sum(kernel[i][j] * window[i][j] for i in range(3) for j in range(3))
            along = sum(kernel[j][i] * window[i][j] for i in range(3) for j in range(3))
            expected[y, x] = math.sqrt(across**2 + along**2 + 1e-6)
    torch.testing.assert_close(sobel_magnitude(image)[0, 0], expected)


def test_kinds_of_edges():
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert sobel_magnitude(image, "each").shape == (2, 3, 8, 8)
    torch.testing.assert_close(sobel_magnitude(image, "each")[:, 1:2], sobel_magnitude(image[:, 1:2]))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close(sobel_magnitude(image, "luma"), sobel_magnitude((image * weights).sum(1, keepdim=True)))
    assert sobel_magnitude(image, scale="max").amax((1, 2, 3)).tolist() == pytest.approx([1, 1])
    stretched = sobel_magnitude(image, scale="min_max")
    assert stretched.amin().item() == 0
    assert stretched.amax().item() == pytest.approx(1)
    flat = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    sobel_magnitude(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()  # the root has no slope at 0
    for arguments, message in (
        ((image, "red"), "channels='red': expected mean, luma or each"),
        ((image[:, :1], "luma"), "luma needs three channels, got 1"),
        ((image, "mean", "sum"), "scale='sum': expected none, max or min_max"),
    ):
        with pytest.raises(CoterieError, match=message):
            sobel_magnitude(*arguments)
