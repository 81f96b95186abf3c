from __future__ import annotations

import math

import pytest
import torch

from coterie.losses.adversarial import discriminator_loss, generator_loss, gradient_penalty


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_they_equal_a_slow_reference():
    real, fake = [0.3, -2.0, 1.5], [-0.7, 0.2]
    expected = -sum(math.log(sigmoid(each)) for each in fake) / 2
    assert generator_loss(torch.tensor(fake)).item() == pytest.approx(expected, rel=1e-5)
    expected = -sum(math.log(sigmoid(s)) for s in real) / 3 - sum(math.log(1 - sigmoid(s)) for s in fake) / 2
    assert discriminator_loss(torch.tensor(real), torch.tensor(fake)).item() == pytest.approx(expected, rel=1e-5)


def test_extreme_scores_are_finite_and_half_precision_is_computed_in_float32():
    scores = torch.tensor([1e4, -1e4], dtype=torch.float16)
    assert generator_loss(scores).dtype == torch.float32
    assert torch.isfinite(discriminator_loss(scores, scores))


def test_the_maker_still_learns_where_the_other_is_sure():
    fake = torch.tensor([-20.0], requires_grad=True)
    generator_loss(fake).backward()
    assert fake.grad.item() == pytest.approx(-1, abs=1e-6)  # the saturating loss has a gradient of 2e-9 here


def test_the_penalty_is_the_squared_slope_and_can_be_trained_on():
    weights = torch.tensor([1.0, -2.0], requires_grad=True)
    real = torch.randn(4, 2, requires_grad=True)
    penalty = gradient_penalty((real * weights).sum(1), real)
    assert penalty.item() == pytest.approx(5)
    penalty.backward()
    torch.testing.assert_close(weights.grad, torch.tensor([2.0, -4.0]))
