"""Divergences over a vocabulary, against sums over plain Python numbers in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import CoterieError
from coterie.losses import DIVERGENCES, adaptive_kl, forward_kl, jsd, kl_divergence, reverse_kl, tvd


def softmax(row, temperature):
    powers = [math.exp(value / temperature) for value in row]
    return [value / sum(powers) for value in powers]


def kl(first, second):
    return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))


def slow_adaptive(p, q, mass):
    order = sorted(range(len(p)), key=lambda v: -p[v])
    head, reached = {order[0]}, 0.0
    for v in order:
        reached += p[v]
        if reached <= mass:
            head.add(v)
    gaps = [abs(a - b) for a, b in zip(p, q, strict=True)]
    share = sum(gaps[v] for v in head) / sum(gaps)
    return share * kl(p, q) + (1 - share) * kl(q, p)


def slow(name, p, q, temperature, beta=0.5, mass=0.5):
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    value = {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "jsd": lambda: beta * kl(p, m) + (1 - beta) * kl(q, m),
        "tvd": lambda: sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
        "adaptive_kl": lambda: slow_adaptive(p, q, mass),
    }[name]()
    return value * (temperature if name == "tvd" else temperature**2)


@pytest.fixture
def logits():
    return 2 * torch.randn(2, 6, 9, dtype=torch.float64)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_each_position_equals_the_slow_reference(name, temperature, logits):
    student, teacher = logits
    values = DIVERGENCES[name](student, teacher, temperature, reduction="none")
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = [slow(name, softmax(t, temperature), softmax(s, temperature), temperature) for s, t in rows]
    assert values.tolist() == pytest.approx(expected, rel=1e-10)
    assert DIVERGENCES[name](student, teacher, temperature).item() == pytest.approx(sum(expected) / 6, rel=1e-10)
    halves = DIVERGENCES[name](student.unflatten(0, (2, 3)), teacher.unflatten(0, (2, 3)), temperature)
    assert halves.item() == pytest.approx(sum(expected) / 6, rel=1e-10)


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_the_teachers_share_of_the_jensen_shannon_divergence(beta, logits):
    for s, t in zip(*logits, strict=True):
        expected = slow("jsd", softmax(t.tolist(), 1.0), softmax(s.tolist(), 1.0), 1.0, beta)
        assert jsd(s[None], t[None], beta=beta).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("mass", [0.0, 0.3, 0.9])
def test_the_head_of_the_adaptive_divergence(mass, logits):
    for s, t in zip(*logits, strict=True):
        expected = slow("adaptive_kl", softmax(t.tolist(), 1.0), softmax(s.tolist(), 1.0), 1.0, mass=mass)
        assert adaptive_kl(s[None], t[None], head_mass=mass).item() == pytest.approx(expected, rel=1e-10)


def test_the_adaptive_divergence_turns_to_the_end_that_is_wrong():
    """The teacher's two likeliest tokens make up its head; a student that errs there gets the forward divergence, and else the reverse one."""
    teacher = torch.tensor([[0.24, 0.24, 0.13, 0.13, 0.13, 0.13]], dtype=torch.float64).log()
    head = torch.tensor([[0.40, 0.08, 0.13, 0.13, 0.13, 0.13]], dtype=torch.float64).log()
    tail = torch.tensor([[0.24, 0.24, 0.20, 0.06, 0.20, 0.06]], dtype=torch.float64).log()
    torch.testing.assert_close(adaptive_kl(head, teacher), forward_kl(head, teacher))
    torch.testing.assert_close(adaptive_kl(tail, teacher), reverse_kl(tail, teacher))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients(name, logits):
    student, teacher = logits
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 1.0], dtype=torch.float64)

    def loss(values):
        return DIVERGENCES[name](values, teacher, 2.0, weights)

    if name != "adaptive_kl":
        assert torch.autograd.gradcheck(loss, student.requires_grad_())
        return
    # Its shares are constants, so that the gradient is that of the two divergences at fixed shares.
    share = torch.tensor([_share(s, t, 2.0) for s, t in zip(student, teacher, strict=True)], dtype=torch.float64)
    (ours,) = torch.autograd.grad(loss(student.requires_grad_()), student)
    fixed = forward_kl(student, teacher, 2.0, weights * share, "none") + reverse_kl(
        student, teacher, 2.0, weights * (1 - share), "none"
    )
    (expected,) = torch.autograd.grad(fixed.sum() / weights.sum(), student)
    torch.testing.assert_close(ours, expected)


def _share(student, teacher, temperature):
    p, q = softmax(teacher.tolist(), temperature), softmax(student.tolist(), temperature)
    return (slow_adaptive(p, q, 0.5) - kl(q, p)) / (kl(p, q) - kl(q, p))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_no_divergence_from_oneself_and_no_gradient(name, logits):
    student = logits[0].requires_grad_()
    value = DIVERGENCES[name](student, student.detach())
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("name", DIVERGENCES)
def test_positions_that_do_not_count_may_hold_anything(name, logits):
    student, teacher = logits
    mask = torch.tensor([True, True, False, True, False, True])
    garbage = student.clone()
    garbage[~mask] = float("nan")
    garbage.requires_grad_()
    value = DIVERGENCES[name](garbage, teacher, weights=mask)
    torch.testing.assert_close(value, DIVERGENCES[name](student[mask], teacher[mask]))
    (gradient,) = torch.autograd.grad(DIVERGENCES[name](student.requires_grad_(), teacher, weights=mask), student)
    assert not gradient[~mask].any()
    assert gradient[mask].any(-1).all()
    assert DIVERGENCES[name](student, teacher, weights=torch.zeros(6)).item() == 0.0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_forward_divergence_is_kl_divergence_to_the_bit(temperature):
    student, teacher = torch.randn(2, 64, 100)
    assert torch.equal(forward_kl(student, teacher, temperature), kl_divergence(student, teacher, temperature))


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    student, teacher = torch.randn(2, 4, 50).to(dtype)
    value = DIVERGENCES[name](student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, DIVERGENCES[name](student.float(), teacher.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(DIVERGENCES[name](student, teacher), value)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6), st.sampled_from(sorted(DIVERGENCES)))
def test_extreme_logits_stay_finite(values, name):
    student = torch.tensor([values, values[::-1]], requires_grad=True)
    value = DIVERGENCES[name](student, student.detach().flip(0))
    value.backward()
    assert value.item() >= -1e-3
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_the_total_variation_is_the_largest_difference_of_an_events_probabilities():
    p, q = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.1, 0.5, 0.4]])
    assert tvd(q.log(), p.log()).item() == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: forward_kl(s, s[:, :3]), "expected equal positions and one vocabulary"),
        (lambda s: forward_kl(s, s, temperature=0.0), "temperature=0.0"),
        (lambda s: forward_kl(s, s, weights=torch.ones(3)), r"weights have the shape \(3,\)"),
        (lambda s: forward_kl(s, s, reduction="sum"), "expected 'mean' or 'none'"),
        (lambda s: jsd(s, s, beta=1.0), "its limits are forward_kl and reverse_kl"),
    ],
)
def test_arguments_that_do_not_fit(call, words):
    with pytest.raises(CoterieError, match=words) as caught:
        call(torch.zeros(2, 5))
    assert "\n" not in str(caught.value)
