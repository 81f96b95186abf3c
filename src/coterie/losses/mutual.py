"""Mutual targets: the divergence between all pairs of students, and the mean of the other students."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mutual_divergence(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Divergence of every student from each of the others, mean over the others, sum over students.

    .. math:: \sum_i \frac{1}{n-1} \sum_{j \ne i} T^2 KL(softmax(t_j/T) \| softmax(z_i/T))

    Args:
        logits: z, [n, B, K], n at least 2.
        targets: t, [n, B, K]; ``logits.detach()`` to treat the others as constants.
        temperature: T > 0.

    Returns:
        0-d float32.
    """
    students = len(logits)
    # The cross-entropy is linear in the targets, so the sum over j needs no [n, n, B, K] tensor.
    log_predictions = torch.log_softmax(logits.float() / temperature, dim=-1)
    log_targets = torch.log_softmax(targets.float() / temperature, dim=-1)
    probabilities = log_targets.exp()
    others = (probabilities.sum(0) - probabilities) / (students - 1)
    # Each target occurs n - 1 times with weight 1 / (n - 1).
    negative_entropy = (probabilities * log_targets).sum()
    cross = (others * log_predictions).sum()
    return (negative_entropy - cross) / logits.shape[1] * temperature**2


def mean_of_others(values: Tensor) -> Tensor:
    """Mean over the other students, for each student.

    Args:
        values: [n, ...], n at least 2.

    Returns:
        float32 [n, ...].
    """
    values = values.float()
    return (values.sum(0) - values) / (len(values) - 1)


def log_mean_probability_of_others(logits: Tensor) -> Tensor:
    """Log of the other students' mean probability, for each student: the logits of their ensemble.

    Args:
        logits: [n, B, K], n at least 2.

    Returns:
        float32 [n, B, K].
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    students = len(logits)
    # In log space over the n - 1 others, since a difference from the total would lose small probabilities.
    others = torch.stack([torch.cat([log_probabilities[:i], log_probabilities[i + 1 :]]) for i in range(students)])
    return torch.logsumexp(others, dim=1) - math.log(students - 1)
