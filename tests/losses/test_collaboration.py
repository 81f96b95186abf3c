from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize

from coterie.losses.collaboration import covariance_weights, linear_target, min_logit_target, naive_target


def test_naive_picks_for_each_sample():
    logits = torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [5.0, 1.0]]])
    target = naive_target(logits, torch.tensor([0, 0]))
    torch.testing.assert_close(target, torch.tensor([[3.0, 0.0], [5.0, 1.0]]))


@pytest.mark.parametrize("students", [2, 4])
@pytest.mark.parametrize("scale", [0.3, 2.0, 8.0])
def test_linear_is_the_best_convex_combination(students, scale):
    logits = scale * torch.randn(students, 8, 5, generator=torch.Generator().manual_seed(students))
    targets = torch.arange(8) % 5
    found = torch.nn.functional.cross_entropy(linear_target(logits, targets), targets, reduction="none")
    for sample in range(8):
        z, y = logits[:, sample].double().numpy(), int(targets[sample])

        def loss(weights, z=z, y=y):
            mixed = weights @ z
            return np.logaddexp.reduce(mixed) - mixed[y]

        best = optimize.minimize(
            loss, np.full(students, 1 / students), bounds=[(0, 1)] * students,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, method="SLSQP",
        )  # fmt: skip
        assert found[sample].item() <= best.fun + (0.2 if scale > 2 else 0.01) * max(1.0, best.fun)


def test_min_logit_by_hand():
    logits = torch.tensor([[[2.0, 1.0, 0.0]], [[1.0, 1.0, -3.0]]])
    torch.testing.assert_close(min_logit_target(logits, torch.tensor([0])), torch.tensor([[0.0, -1.0, -4.0]]))


def test_covariance_weights_against_numpy_and_known_cases():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(3, 400, 4, generator=generator), torch.arange(400) % 4
    errors = logits.double().softmax(-1).numpy() - np.eye(4)[targets.numpy()]
    covariance = np.einsum("ink,jnk->ij", errors, errors) / 400
    inverse = np.linalg.inv(covariance)
    expected = inverse.sum(1) / inverse.sum()
    np.testing.assert_allclose(covariance_weights(logits, targets, ridge=0.0), expected, atol=1e-5)
    same = logits[:1].expand(3, -1, -1)
    torch.testing.assert_close(covariance_weights(same, targets), torch.full((3,), 1 / 3))


def cross_entropy(logits, targets):
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("students", [2, 3, 4])
def test_linear_lies_between_the_students_and_is_no_worse_than_any_or_their_mean(students):
    logits, targets = 3 * torch.randn(students, 20, 6), torch.arange(20) % 6
    target = linear_target(logits, targets)
    best = cross_entropy(target, targets)
    assert (best <= cross_entropy(logits.mean(0), targets)).all()
    for student in logits:
        assert (best <= cross_entropy(student, targets) + 0.02).all()
    for sample in range(20):  # a convex combination: non-negative weights that sum to 1 and leave nothing over
        rows = np.vstack([logits[:, sample].T.double().numpy(), np.full(students, 100.0)])
        wanted = np.append(target[sample].double().numpy(), 100.0)
        _, left_over = optimize.nnls(rows, wanted)
        assert left_over < 1e-3


def test_linear_by_hand():
    """Each is right where the other is wrong by as much: their mean; and one is better in everything: that one."""
    targets = torch.tensor([0])
    mirrored = torch.tensor([[[1.0, 3.0, -3.0]], [[1.0, -3.0, 3.0]]])
    torch.testing.assert_close(linear_target(mirrored, targets), torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-3, rtol=0)
    dominated = torch.tensor([[[4.0, 0.0, 0.0]], [[0.0, 1.0, 1.0]]])
    torch.testing.assert_close(linear_target(dominated, targets), dominated[0], atol=0.02, rtol=0)


def test_min_logit_is_lowest_everywhere_but_at_the_true_class():
    """So its softmax gives the true class at least the probability of the most certain student."""
    logits, targets = 3 * torch.randn(3, 20, 6), torch.arange(20) % 6
    truth = targets[:, None]
    target = min_logit_target(logits, targets)
    assert (target.gather(1, truth) == 0).all()
    for student in logits:
        assert (target.softmax(-1).gather(1, truth) >= student.softmax(-1).gather(1, truth) - 1e-6).all()


def test_covariance_weights_of_known_cases():
    """What holds without knowing the covariance's entries."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(4000) % 2
    uniform = torch.zeros(4000, 2)
    # Equal students: any weights are as good, the ridge makes them uniform.
    torch.testing.assert_close(covariance_weights(torch.stack([uniform] * 4), targets), torch.full((4,), 0.25))
    # Independent errors: weights are inverse to the mean squares (large logits: certain, wrong in one case of k).
    wrong = [torch.rand(4000, generator=generator) < share for share in (0.02, 0.2, 0.2)]
    logits = torch.stack([20.0 * torch.nn.functional.one_hot((targets + each) % 2, 2) for each in wrong])
    weights = covariance_weights(logits, targets)
    assert weights[0] > 0.8
    assert weights[1].item() == pytest.approx(weights[2].item(), abs=0.02)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-6)
    # Two students, errors known by hand: C = [[a, c], [c, b]] gives (b - c, a - c) over their sum.
    hand = torch.tensor([[[0.8, 0.2], [0.6, 0.4]], [[0.7, 0.3], [0.1, 0.9]]]).log()  # truth: class 0 in both samples
    a, b = (2 * 0.2**2 + 2 * 0.4**2) / 2, (2 * 0.3**2 + 2 * 0.9**2) / 2
    c = (2 * 0.2 * 0.3 + 2 * 0.4 * 0.9) / 2
    expected = torch.tensor([b - c, a - c]) / (a + b - 2 * c)
    found = covariance_weights(hand, torch.tensor([0, 0]), ridge=0.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    # Swapped students have swapped weights.
    torch.testing.assert_close(covariance_weights(logits.flip(0), targets), weights.flip(0))


def test_targets_are_constants():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    for make in (naive_target, linear_target, min_logit_target, covariance_weights):
        assert not make(logits, torch.tensor([0, 1, 2])).requires_grad
