"""DKD's two parts of the distillation loss: target class against the rest, and among the other classes."""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.losses.distillation import kl_divergence


def target_divergence(logits: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """TCKD: T² KL between the two-way distributions (target class, any other); 0-d.

    Args:
        logits, teacher: [B, K].
        targets: class indices [B].
        temperature: T > 0.
    """

    def two_way(values: Tensor) -> Tensor:
        log_probabilities = torch.log_softmax(values.float() / temperature, dim=-1)
        target = log_probabilities.gather(1, targets[:, None])
        others = log_probabilities.scatter(1, targets[:, None], float("-inf")).logsumexp(1, keepdim=True)
        return torch.cat([target, others], dim=1)

    # Log-probabilities are logits of the same distribution and include the temperature already.
    return kl_divergence(two_way(logits), two_way(teacher)) * temperature**2


def others_divergence(
    logits: Tensor, teacher: Tensor, targets: Tensor, temperature: float, second: Tensor | None = None
) -> Tensor:
    """NCKD: T² KL between the distributions over the classes other than the target; 0-d.

    Args:
        logits, teacher: [B, K].
        targets: class indices [B].
        temperature: T > 0.
        second: a second class of each sample to exclude, [B] (mixed samples).
    """
    smallest = torch.finfo(torch.float32).min / 4  # gives probability 0 and avoids inf - inf

    def without(values: Tensor) -> Tensor:
        left = values.float().scatter(1, targets[:, None], smallest)
        return left if second is None else left.scatter(1, second[:, None], smallest)

    return kl_divergence(without(logits), without(teacher), temperature)
