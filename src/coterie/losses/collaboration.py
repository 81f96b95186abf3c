"""KDCL's soft targets: one prediction made of all students', per sample. Every result is a constant (no gradient)."""

from __future__ import annotations

import torch
from torch import Tensor

LINEAR_STEPS = 60


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

    Exponentiated gradient on the simplex, a fixed number of steps (no host synchronisation), with the step that the
    problem's smoothness allows: the logits' largest difference between students bounds its curvature.

    Args:
        logits: [n, B, K].
        targets: class indices [B].

    Returns:
        float32 [B, K].
    """
    logits = logits.float()
    relative = logits - logits.mean(0)
    true = relative.gather(-1, targets.expand(len(logits), -1).unsqueeze(-1)).squeeze(-1)  # [n, B]
    spread = (relative.amax(0) - relative.amin(0)).amax(-1)  # [B]
    scores = torch.zeros_like(logits[..., 0])  # logarithm of the weights, [n, B]
    rate = 4.0 / spread.square().clamp(min=1e-6)
    for _ in range(LINEAR_STEPS):
        mixed = torch.einsum("nb,nbk->bk", torch.softmax(scores, 0), logits)
        slope = torch.einsum("bk,nbk->nb", torch.softmax(mixed, -1), relative) - true
        scores = scores - rate * slope
    return torch.einsum("nb,nbk->bk", torch.softmax(scores, 0), logits)


@torch.no_grad()
def min_logit_target(logits: Tensor, targets: Tensor) -> Tensor:
    """Each student's logits less its logit of the true class, and of these the smallest over the students.

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
        ridge: share of C's mean diagonal that is added to the diagonal, since like students make C singular.

    Returns:
        float32 [n], summing to 1.
    """
    errors = torch.softmax(logits.double(), -1) - torch.nn.functional.one_hot(targets, logits.shape[-1])
    flat = errors.flatten(1)
    covariance = flat @ flat.T / logits.shape[1]
    covariance += ridge * covariance.diagonal().mean() * torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
    solution = torch.linalg.solve(covariance, torch.ones_like(covariance[0]))
    return (solution / solution.sum()).float()
