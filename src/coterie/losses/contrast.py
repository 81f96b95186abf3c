"""Supervised contrastive losses within a batch, for the embeddings of one or two students (MCL's terms)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from coterie.losses.distillation import kl_divergence
from coterie.losses.precision import matmul


def similarities(anchors: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Cosine similarities over the temperature, float32 [B, B].

    Args:
        anchors, others: unit vectors, [B, d].
        temperature: of the contrastive loss.
    """
    return matmul(anchors, others.T) / temperature


def contrast(similarity: Tensor, targets: Tensor, against: Literal["classes", "samples"] = "classes") -> Tensor:
    r"""Contrastive loss of all pairs of samples of one class: mean over an anchor's positives, then over the anchors that have any.

    .. math:: -\log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{k: y_k \ne y_i} e^{s_{ik}}} \quad\text{or}\quad
        -\log \frac{e^{s_{ip}}}{\sum_{k \ne i} e^{s_{ik}}}

    Args:
        similarity: [B, B] of :func:`similarities`; rows are anchors. A sample is neither its own positive nor its own negative.
        targets: class indices [B].
        against: ``classes``, the first formula: the denominator holds the positive and the samples of other classes (InfoNCE);
            ``samples``, the second: it holds all other samples, including further positives (supervised contrast, Khosla et al., 2020).

    Returns:
        0-d float32; 0 if no class occurs twice in the batch.

    Source: MCL (Yang et al., AAAI 2022), its vanilla (one student) and interactive (two students) terms: ``classes`` as the paper is
    recalled, ``samples`` as its code for CIFAR has them.
    """
    same = targets[:, None] == targets[None, :]
    own = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    positive = same & ~own
    lowest = torch.finfo(similarity.dtype).min
    others = torch.logsumexp(similarity.masked_fill(same if against == "classes" else own, lowest), dim=1, keepdim=True)
    whole = torch.logaddexp(similarity, others) if against == "classes" else others
    losses = whole - similarity
    counts = positive.sum(1)
    per_anchor = torch.where(positive, losses, torch.zeros_like(losses)).sum(1) / counts.clamp(min=1)
    return per_anchor.sum() / (counts > 0).sum().clamp(min=1)


def soft_contrast(similarity: Tensor, target: Tensor, temperature: float, with_own: bool = False) -> Tensor:
    """KL divergence of each anchor's distribution over the samples from another student's.

    Args:
        similarity, target: [B, B] of :func:`similarities`.
        temperature: T, on top of the contrastive temperature.
        with_own: whether the distribution includes the anchor itself (MCL's code) or not (its paper, as far as it is recalled).

    Returns:
        0-d float32, times T².
    """
    if not with_own:
        similarity, target = _without_diagonal(similarity), _without_diagonal(target)
    return kl_divergence(similarity, target, temperature)


def _without_diagonal(square: Tensor) -> Tensor:
    """[B, B] to [B, B-1] by reshaping: indexing with a mask would synchronise with the host."""
    size = len(square)
    return square.flatten()[1:].view(size - 1, size + 1)[:, :-1].reshape(size, size - 1)
