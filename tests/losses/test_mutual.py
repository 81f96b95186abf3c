from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.losses import kl_divergence
from coterie.losses.mutual import log_mean_probability_of_others, mean_of_others, mutual_divergence


def softmax(values, temperature=1.0):
    exponentials = [math.exp(value / temperature) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def slow_mutual(logits, targets, temperature):
    """Pair by pair and sample by sample, in Python floats."""
    students, total = len(logits), 0.0
    for i in range(students):
        for j in range(students):
            if i != j:
                for z, t in zip(logits[i].tolist(), targets[j].tolist(), strict=True):
                    p, q = softmax(z, temperature), softmax(t, temperature)
                    total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) / (students - 1)
    return temperature**2 * total / logits.shape[1]


@pytest.mark.parametrize("students", [2, 3, 5])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_mutual_divergence_equals_a_slow_reference(students, temperature):
    logits, targets = 2 * torch.randn(2, students, 4, 6, dtype=torch.float64)
    found = mutual_divergence(logits, targets, temperature)
    assert found.item() == pytest.approx(slow_mutual(logits, targets, temperature), rel=1e-5)


def test_mutual_divergence_of_equal_students_is_zero():
    logits = torch.randn(1, 5, 7).expand(4, -1, -1)
    assert mutual_divergence(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-5)


def test_mutual_divergence_has_the_gradients_of_the_pairs():
    logits = torch.randn(3, 4, 5, requires_grad=True)
    targets = torch.randn(3, 4, 5, requires_grad=True)
    pairs = [kl_divergence(logits[i], targets[j], 2.0) / 2 for i in range(3) for j in range(3) if i != j]
    expected = torch.autograd.grad(torch.stack(pairs).sum(), [logits, targets])
    found = torch.autograd.grad(mutual_divergence(logits, targets, 2.0), [logits, targets])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_mutual_divergence_is_finite_for_extreme_logits(values, dtype):
    logits = torch.tensor([[values], [values[::-1]], [[0.0] * len(values)]], dtype=dtype, requires_grad=True)
    loss = mutual_divergence(logits, logits.detach())
    loss.backward()
    assert torch.isfinite(loss)
    assert loss.item() >= -1e-3
    assert torch.isfinite(logits.grad).all()


def test_means_of_the_others_leave_oneself_out():
    values = torch.randn(4, 3, 5)
    for student in range(4):
        others = values[[other for other in range(4) if other != student]]
        torch.testing.assert_close(mean_of_others(values)[student], others.mean(0))
        torch.testing.assert_close(log_mean_probability_of_others(values)[student].exp(), others.softmax(-1).mean(0))


def test_a_tiny_probability_of_the_others_is_not_lost_beside_a_large_one_of_oneself():
    """In float32, (1 + 1e-20) - 1 is 0, and its logarithm would be minus infinity."""
    certain, other = [0.0, -46.0], [-46.0, 0.0]
    found = log_mean_probability_of_others(torch.tensor([[certain], [other]]))
    torch.testing.assert_close(found, torch.tensor([[other], [certain]]))
