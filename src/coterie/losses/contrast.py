"""Supervised contrast within a batch, between one or two students' embeddings (MCL's terms)."""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.losses.distillation import kl_divergence
from coterie.losses.precision import matmul


def similarities(anchors: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Cosine similarities over the temperature, [B, B]; the diagonal, a sample and itself, is the smallest number.

    Args:
        anchors, others: unit vectors, [B, d].
        temperature: of the contrast.
    """
    values = matmul(anchors, others.T) / temperature
    own = torch.eye(len(values), dtype=torch.bool, device=values.device)
    return values.masked_fill(own, torch.finfo(values.dtype).min)


def contrast(similarity: Tensor, targets: Tensor) -> Tensor:
    r"""InfoNCE of every pair of samples of one class, mean over an anchor's positives, then over the anchors that have any.

    .. math:: -\log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{k: y_k \ne y_i} e^{s_{ik}}}

    Args:
        similarity: [B, B] of :func:`similarities`; rows are anchors.
        targets: class indices [B].

    Returns:
        0-d float32; 0 where no class stands twice in the batch.

    Source: MCL (Yang et al., AAAI 2022), its code's vanilla (one student) and interactive (two students) terms.
    """
    same = targets[:, None] == targets[None, :]
    own = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    positive = same & ~own
    lowest = torch.finfo(similarity.dtype).min
    negatives = torch.logsumexp(similarity.masked_fill(same, lowest), dim=1, keepdim=True)
    losses = torch.logaddexp(similarity, negatives) - similarity
    counts = positive.sum(1)
    per_anchor = torch.where(positive, losses, torch.zeros_like(losses)).sum(1) / counts.clamp(min=1)
    return per_anchor.sum() / (counts > 0).sum().clamp(min=1)


def soft_contrast(similarity: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Divergence of each anchor's distribution over the other samples from another student's.

    Args:
        similarity, target: [B, B] of :func:`similarities`.
        temperature: T, beside that of the contrast.

    Returns:
        0-d float32, times T².
    """
    return kl_divergence(_without_diagonal(similarity), _without_diagonal(target), temperature)


def _without_diagonal(square: Tensor) -> Tensor:
    """[B, B] to [B, B-1] by shapes alone: picking by a mask would make the host wait for a count."""
    size = len(square)
    return square.flatten()[1:].view(size - 1, size + 1)[:, :-1].reshape(size, size - 1)
