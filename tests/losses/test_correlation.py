from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from coterie.losses.correlation import pearson_distance


def slow(student, teacher):
    """1 - covariance over the product of the deviations and 1e-8, row by row; mean."""
    values = []
    for a, b in zip(student.tolist(), teacher.tolist(), strict=True):
        a, b = [x - sum(a) / len(a) for x in a], [x - sum(b) / len(b) for x in b]
        product = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        values.append(1 - sum(x * y for x, y in zip(a, b, strict=True)) / (product + 1e-8))
    return sum(values) / len(values)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_against_a_slow_reference(scale):
    z, t = (
        (scale * torch.randn(7, 5, dtype=torch.float64)).softmax(-1),
        torch.randn(7, 5, dtype=torch.float64).softmax(-1),
    )
    assert pearson_distance(z, t).item() == pytest.approx(slow(z, t), rel=1e-9)
    assert pearson_distance(z.T, t.T).item() == pytest.approx(slow(z.T, t.T), rel=1e-9)


def test_gradients_where_students_differ_are_exact():
    z, t = (
        torch.randn(4, 5, dtype=torch.float64, requires_grad=True),
        torch.randn(4, 5, dtype=torch.float64).softmax(-1),
    )
    assert gradcheck(lambda z: pearson_distance(z.softmax(-1), t) + pearson_distance(z.softmax(-1).T, t.T), z)


@pytest.mark.parametrize("classes", [2, 5, 100])
@pytest.mark.parametrize("deviation", [0.0, 1e-7, 1e-4, 1e-2])
def test_a_student_that_says_nothing_yet_gets_a_bounded_gradient_towards_the_teacher(classes, deviation):
    """Without the bound it reaches 1e8 for logits that are equal, and 1 / deviation for those that nearly are."""
    z = (deviation * torch.randn(64, classes)).requires_grad_()
    teacher = (2 * torch.randn(64, classes)).softmax(-1)
    loss = pearson_distance(z.softmax(-1), teacher) + pearson_distance(z.softmax(-1).T, teacher.T)
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.norm() < 10 / math.sqrt(64) + 10 / math.sqrt(classes)
    if deviation == 0:
        assert (
            torch.cosine_similarity(-gradient.flatten(), (teacher - teacher.mean(-1, keepdim=True)).flatten(), 0) > 0.9
        )


def test_constant_rows_are_finite():
    z = torch.zeros(3, 4, requires_grad=True)
    loss = pearson_distance(z.softmax(-1), torch.full((3, 4), 0.25))
    loss.backward()
    assert loss.item() == 1
    assert not z.grad.any()
