from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.losses import kl_divergence, mean_probability, ramp_up


def slow_kl(logits, targets, temperature):
    """Sum over classes and mean over samples, by Python floats."""
    total = 0.0
    for z, t in zip(logits.double().tolist(), targets.double().tolist(), strict=True):
        p = [math.exp(v / temperature) for v in z]
        q = [math.exp(v / temperature) for v in t]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(logits)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_equals_slow_reference_batchmean_and_squared_temperature(temperature):
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 5, 7, generator=generator)
    assert kl_divergence(logits, targets, temperature).item() == pytest.approx(
        slow_kl(logits, targets, temperature), rel=1e-5
    )


def test_kl_argument_order_is_target_first_in_the_divergence():
    sure, unsure = torch.tensor([[8.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    # A sure target and an unsure prediction cost log 2 at most; the reverse is not bounded by it.
    assert kl_divergence(unsure, sure).item() < math.log(2) < kl_divergence(sure, unsure).item()


def test_kl_broadcasts_one_target_to_all_students():
    logits, target = torch.randn(3, 4, 5), torch.randn(4, 5)
    each = [kl_divergence(student, target, 2.0) for student in logits]
    torch.testing.assert_close(kl_divergence(logits, target, 2.0), torch.stack(each))


def test_kl_gradient():
    logits = torch.randn(3, 4, dtype=torch.float32, requires_grad=True)
    target = torch.randn(3, 4)
    kl_divergence(logits, target, 3.0).backward()
    # d/dz of T^2 KL is T (p - q) / B
    expected = 3.0 * (torch.softmax(logits / 3, -1) - torch.softmax(target / 3, -1)) / 3
    torch.testing.assert_close(logits.grad, expected.detach(), atol=1e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([1.0, 3.0, 20.0]),
)
def test_kl_is_finite_and_not_negative_for_extreme_logits(values, dtype, temperature):
    logits = torch.tensor([values, values[::-1]], dtype=dtype, requires_grad=True)
    loss = kl_divergence(logits, logits.detach().flip(0), temperature)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss.item() >= -1e-3
    assert torch.isfinite(logits.grad).all()


def test_mean_probability_is_the_log_of_the_mean_of_probabilities_not_of_logits():
    logits = torch.tensor([[[4.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])
    expected = logits.softmax(-1).mean(0)
    torch.testing.assert_close(mean_probability(logits).exp(), expected)
    assert not torch.allclose(mean_probability(logits).softmax(-1), logits.mean(0).softmax(-1), atol=1e-2)


def test_one_mean_probability_is_the_general_rule_bit_by_bit():
    logits = torch.randn(1, 6, 50, generator=torch.Generator().manual_seed(0)).mul_(40).requires_grad_()
    general = torch.logsumexp(torch.log_softmax(logits, -1), 0)
    assert torch.equal(mean_probability(logits), general)
    weights = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    found, expected = (
        torch.autograd.grad((each * weights).sum(), logits)[0] for each in (mean_probability(logits), general)
    )
    assert torch.equal(found, expected)


def test_ramp_up_is_the_familys_80_of_300_epochs():
    for epoch in [0, 1, 40, 79, 80, 200]:
        expected = math.exp(-5 * (1 - min(epoch, 80) / 80) ** 2)
        assert ramp_up(torch.tensor(epoch / 300), 80 / 300).item() == pytest.approx(expected, rel=1e-4)
    assert ramp_up(torch.tensor(0.0), 0).item() == 1.0
