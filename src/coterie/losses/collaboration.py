"""KDCL's soft targets: one prediction per sample, formed from all students' predictions. No result carries a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.losses.precision import einsum

LINEAR_STEPS = 60
LINEAR_RATE = 4.0


@torch.no_grad()
def naive_target(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits of the student whose cross-entropy on the sample is smallest.

    Args:
        logits: [n, B, K].
        targets: class indices [B].

    Returns:
        float32 [B, K].
    """
    logits = logits.float()
    wanted = targets.expand(len(logits), -1).unsqueeze(-1)
    best = torch.log_softmax(logits, dim=-1).gather(-1, wanted).argmax(0)  # [B, 1]
    return logits.gather(0, best.unsqueeze(0).expand(1, -1, logits.shape[-1])).squeeze(0)


@torch.no_grad()
def linear_target(logits: Tensor, targets: Tensor) -> Tensor:
    """The convex combination of the students' logits with the smallest cross-entropy on the sample.

    Exponentiated gradient on the simplex with AdaGrad's step, a fixed number of steps (no host synchronisation); the best point found is kept. Measured on
    random logits with standard deviations 3, 8 and 20: the result is above the smallest loss by 0.03 %, 0.2 % and 0.6 % in the mean, and by 0.03, 0.7 and 1.3
    nats on the worst of 450 samples.

    Args:
        logits: [n, B, K].
        targets: class indices [B].

    Returns:
        float32 [B, K].
    """
    logits = logits.float()
    wanted = targets[:, None]
    relative = logits - logits.mean(0)
    true = relative.gather(-1, targets.expand(len(logits), -1).unsqueeze(-1)).squeeze(-1)  # [n, B]
    scores, squares = torch.zeros_like(true), torch.zeros_like(true[0])
    best, smallest = logits.mean(0), torch.full_like(true[0], float("inf"))
    for _ in range(LINEAR_STEPS):
        weights = torch.softmax(scores, 0)
        mixed = einsum("nb,nbk->bk", weights, logits)
        log_probabilities = torch.log_softmax(mixed, -1)
        loss = -log_probabilities.gather(1, wanted).squeeze(1)
        best = torch.where((loss < smallest)[:, None], mixed, best)
        smallest = torch.minimum(loss, smallest)
        slope = einsum("bk,nbk->nb", log_probabilities.exp(), relative) - true
        slope = slope - (weights * slope).sum(0)
        squares = squares + slope.abs().amax(0).square()
        scores = scores - LINEAR_RATE * slope / squares.clamp(min=1e-12).sqrt()
    return best


@torch.no_grad()
def min_logit_target(logits: Tensor, targets: Tensor) -> Tensor:
    """Subtracts each student's logit of the true class from its logits, then takes the minimum over students.

    Args:
        logits: [n, B, K].
        targets: class indices [B].

    Returns:
        float32 [B, K], 0 for the true class.
    """
    logits = logits.float()
    wanted = targets.expand(len(logits), -1).unsqueeze(-1)
    return (logits - logits.gather(-1, wanted)).amin(0)


@torch.no_grad()
def covariance_weights(logits: Tensor, targets: Tensor, ridge: float = 1e-4) -> Tensor:
    r"""Weights of the combination with the least squared error, :math:`C^{-1} 1 / (1^T C^{-1} 1)`.

    C is the covariance of the students' errors (probabilities minus one-hot truth) over a validation split. Weights may be negative
    where errors are strongly correlated.

    Args:
        logits: [n, N, K].
        targets: class indices [N].
        ridge: share of C's mean diagonal that is added to the diagonal, since similar students make C singular.

    Returns:
        float32 [n], summing to 1.
    """
    errors = torch.softmax(logits.double(), -1) - torch.nn.functional.one_hot(targets, logits.shape[-1])
    flat = errors.flatten(1)
    covariance = flat @ flat.T / logits.shape[1]
    covariance += ridge * covariance.diagonal().mean() * torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
    solution = torch.linalg.solve(covariance, torch.ones_like(covariance[0]))
    return (solution / solution.sum()).float()
