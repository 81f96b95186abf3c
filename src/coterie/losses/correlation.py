"""DIST's distance by Pearson correlation."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8  # in the product of the norms, as in DIST's code
STEEPEST = 10.0


def pearson_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""1 - Pearson correlation along the last axis, mean over the others; 0-d.

    .. math:: 1 - \frac{\tilde p \cdot \tilde q}{|\tilde p|\,|\tilde q| + 10^{-8}}

    where the tilde marks p and q minus their means. A correlation does not depend on scale, so its gradient grows without bound as the student's values become
    equal (a classifier that starts at zero): with two classes it reaches 1e8. Therefore, where p deviates from its mean by less than a tenth of its largest
    entry, the gradient is the one at a deviation of a tenth, in the same direction. The value always follows the formula.

    Args:
        student: probabilities [B, K], or [K, B].
        teacher: likewise, constants.

    Source: DIST (Huang et al., NeurIPS 2022), value as in its code; the bound is ours.
    """
    own = student - student.mean(-1, keepdim=True)
    other = teacher - teacher.mean(-1, keepdim=True)
    own_norm = torch.linalg.vector_norm(own, dim=-1)
    other_norm = torch.linalg.vector_norm(other, dim=-1)
    with torch.no_grad():
        # Largest gradient with respect to the logits: that with respect to p, 1 / |p~|, times softmax's, at most the largest p.
        steepness = student.abs().amax(-1) / (own_norm + EPSILON / other_norm.clamp(min=EPSILON))
        share = (STEEPEST / steepness).clamp(max=1.0).unsqueeze(-1)
    own = own.detach() + share * (own - own.detach())
    correlation = (own * other).sum(-1) / (torch.linalg.vector_norm(own, dim=-1) * other_norm + EPSILON)
    return (1.0 - correlation).mean()
