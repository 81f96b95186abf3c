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
