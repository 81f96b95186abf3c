r"""Divergences between a student's and a teacher's distribution over a vocabulary, one value for each position.

p = softmax(t/T) is the teacher's distribution and q = softmax(s/T) the student's. All are computed in log space and in float32 (float64 for float64 logits),
also under autocast. Logits must be finite. Nothing is detached: the caller decides whether the teacher is a constant.

A factor keeps the gradient's scale when the temperature changes: T² where the divergence grows with the square of a small difference
(Hinton, Vinyals and Dean, 2015, section 2), T for the total variation, which grows with the difference itself (ours).
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor

from coterie.errors import CoterieError, did_you_mean
from coterie.losses.precision import at_least_float32

Reduction = Literal["mean", "none"]
DivergenceName = Literal["forward_kl", "reverse_kl", "jsd", "tvd", "adaptive_kl"]


class Divergence(Protocol):
    """Signature of all divergences in this module."""

    def __call__(
        self,
        logits: Tensor,
        teacher_logits: Tensor,
        temperature: float = 1.0,
        weights: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor: ...


def forward_kl(
    logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KL of the student from the teacher: :math:`T^2 \sum_v p_v \log (p_v / q_v)`. Mode-covering: the student must cover all that the teacher rates likely.

    Args:
        logits: the student's, [..., V].
        teacher_logits: [..., V].
        temperature: T > 0.
        weights: one for each position, [...]: a mask (True counts) or non-negative numbers. None: equal weights.
        reduction: ``mean``: the weighted mean over positions, 0 if no position counts; ``none``: each position's value, times its weight.

    Returns:
        0-d, or [...] with ``none``; in nats.

    Raises:
        CoterieError: logits of different shapes, or weights of another shape than the positions.

    >>> student, teacher = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> forward_kl(student, teacher).item()
    0.0
    """
    log_q, log_p = _log_probabilities(logits, teacher_logits, temperature)
    return reduced(_kl(log_p, log_q), weights, reduction, temperature**2)


def reverse_kl(
    logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KL of the teacher from the student: :math:`T^2 \sum_v q_v \log (q_v / p_v)`. Mode-seeking: the student must not rate likely what the teacher does not.

    For the arguments see :func:`forward_kl`.

    Source: MiniLLM (Gu et al., ICLR 2024); here for each token, as in the RLKD authors' code.
    """
    log_q, log_p = _log_probabilities(logits, teacher_logits, temperature)
    return reduced(_kl(log_q, log_p), weights, reduction, temperature**2)


def jsd(
    logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    beta: float = 0.5,
) -> Tensor:
    r"""Jensen-Shannon divergence: :math:`T^2 [\beta KL(p \| m) + (1 - \beta) KL(q \| m)],\; m = \beta p + (1 - \beta) q`.

    For the arguments see :func:`forward_kl`; beta: the teacher's share, strictly between 0 and 1.

    Source: the RLKD authors' code (β = 1/2); the generalised form of GKD (Agarwal et al., ICLR 2024), as in TRL's code.

    Raises:
        CoterieError: also for beta out of its bounds.
    """
    if not 0 < beta < 1:
        raise CoterieError(f"jsd: beta={beta!r} is not between 0 and 1; its limits are forward_kl and reverse_kl")
    log_q, log_p = _log_probabilities(logits, teacher_logits, temperature)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return reduced(beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m), weights, reduction, temperature**2)


def tvd(
    logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Total variation distance: :math:`T \frac12 \sum_v |p_v - q_v|`. At T = 1 it is between 0 and 1.

    For the arguments see :func:`forward_kl`.

    Source: f-distill (Wen et al., ACL 2023), as in the RLKD authors' code.
    """
    log_q, log_p = _log_probabilities(logits, teacher_logits, temperature)
    return reduced(0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1), weights, reduction, temperature)


def adaptive_kl(
    logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    head_mass: float = 0.5,
) -> Tensor:
    r"""Forward and reverse KL, weighted by where student and teacher differ: :math:`(g_h KL(p\|q) + g_t KL(q\|p)) / (g_h + g_t)`, times T².

    The head is the teacher's most likely tokens, the tail the rest; g_h and g_t are the sums of :math:`|p_v - q_v|` over each. The two weights are constants.
    Where p = q, both are one half.

    For the arguments see :func:`forward_kl`; head_mass: µ, between 0 and 1. In descending order of probability, a token is in the head while the cumulative
    probability is at most µ; the most likely token always is. This follows the authors' code.

    Source: AKL (Wu et al., 2024, arXiv 2404.02657), following its code; µ = 0.5 and the gap \|p - q\| as RLKD quotes them (section 5.1).
    It sorts the vocabulary and is therefore the slowest of these divergences.
    """
    log_q, log_p = _log_probabilities(logits, teacher_logits, temperature)
    with torch.no_grad():
        p, order = log_p.exp().sort(dim=-1, descending=True)
        in_head = p.cumsum(-1) <= head_mass
        in_head[..., 0] = True
        gaps = (p - log_q.exp().gather(-1, order)).abs_()
        total = gaps.sum(-1)
        head = (gaps * in_head).sum(-1)
        share = torch.where(total > 0, head / total.where(total > 0, 1.0), 0.5)
    value = share * _kl(log_p, log_q) + (1 - share) * _kl(log_q, log_p)
    return reduced(value, weights, reduction, temperature**2)


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "tvd": tvd,
    "adaptive_kl": adaptive_kl,
}


def find_divergence(name: str) -> Divergence:
    """Returns the divergence with this name.

    Raises:
        CoterieError: an unknown name.
    """
    if name not in DIVERGENCES:
        raise CoterieError(
            f"unknown divergence {name!r}{did_you_mean(name, DIVERGENCES)}; expected {', '.join(DIVERGENCES)}"
        )
    return DIVERGENCES[name]


def reduced(values: Tensor, weights: Tensor | None, reduction: Reduction, factor: float = 1.0) -> Tensor:
    """Weighted mean of the positions' values, or the weighted values, times a factor. A position of weight 0 may hold any value.

    Args:
        values: [...].
        weights: as in :func:`forward_kl`.
        reduction: ``mean`` or ``none``.
        factor: a number.

    Raises:
        CoterieError: weights of another shape, or an unknown reduction.
    """
    if reduction not in ("mean", "none"):
        raise CoterieError(f"reduction={reduction!r}: expected 'mean' or 'none'")
    if weights is None:
        return values.mean() * factor if reduction == "mean" else values * factor
    if weights.shape != values.shape:
        raise CoterieError(f"weights have the shape {tuple(weights.shape)}, the positions {tuple(values.shape)}")
    weights = weights.to(values.dtype)
    weighted = torch.where(weights > 0, values * weights, 0.0)
    if reduction == "none":
        return weighted * factor
    total = weights.sum()
    return weighted.sum() / total.where(total > 0, 1.0) * factor


def require_same_vocabulary(logits: Tensor, teacher_logits: Tensor) -> None:
    """Checks that the logits have the same shape.

    Raises:
        CoterieError: different shapes.
    """
    if logits.shape != teacher_logits.shape:
        raise CoterieError(
            f"the student's logits have the shape {tuple(logits.shape)}, the teacher's {tuple(teacher_logits.shape)}; expected equal positions and one vocabulary"
        )


def _log_probabilities(logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student and teacher."""
    require_same_vocabulary(logits, teacher_logits)
    if not temperature > 0:
        raise CoterieError(f"temperature={temperature!r}: expected a number above 0")

    def of(values: Tensor) -> Tensor:
        values = at_least_float32(values)
        return torch.log_softmax(values if temperature == 1 else values / temperature, dim=-1)  # / 1 would copy [N, V]

    return of(logits), of(teacher_logits)


def _kl(log_first: Tensor, log_second: Tensor) -> Tensor:
    """KL(first || second) along the last axis."""
    return (log_first.exp() * (log_first - log_second)).sum(-1)
