r"""RLKD's ranking loss: it trains the student to rank the most likely tokens in the teacher's order (Peng and Zhang, COLING 2025, arXiv 2409.12545).

The loss of a position is taken over the union of the student's and the teacher's k most likely tokens. R is a differentiable rank and ρ Pearson's correlation (ρ of
ranks is Spearman's):

.. math:: L_{rank} = 1 - \rho(R(s), R(t)), \qquad L = 2 L_{rank} + L_{logits} \qquad \text{(section 4, equation 1)}

Logits are ranked, as in the authors' code. The paper says probabilities; a soft rank of strength 1 is an affine map of those, so the loss would be Pearson's correlation
of probabilities. All shapes are fixed, and no value is read on the host.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from coterie.errors import CoterieError
from coterie.losses.divergences import (
    DivergenceName,
    Reduction,
    find_divergence,
    reduced,
    require_same_vocabulary,
)
from coterie.losses.precision import at_least_float32

Correlation = Literal["spearman", "pearson"]
SMALLEST_VARIANCE = 1e-8  # centred values with a smaller sum of squares count as constant


class TopUnion(NamedTuple):
    """The tokens that are compared, for each position."""

    indices: Tensor
    """[..., 2k]: the teacher's k likeliest tokens, then the student's."""
    counted: Tensor
    """Bool [..., 2k]: False for a token that stands in the teacher's half already."""
    overlap: Tensor
    """[...]: the share of the student's k likeliest tokens that are among the teacher's; between 0 and 1, a constant."""


def top_union(logits: Tensor, teacher_logits: Tensor, k: int) -> TopUnion:
    """Returns the union of both models' k most likely tokens.

    Args:
        logits: the student's, [..., V].
        teacher_logits: [..., V].
        k: 2 to V; one token has no order.

    Source: RLKD, section 4; the union also compares tokens that the student rates too high.

    Raises:
        CoterieError: logits of different shapes, or k out of its bounds.

    >>> union = top_union(torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([3.0, 0.0, 1.0, 2.0]), k=2)
    >>> union.indices.tolist(), union.counted.tolist(), union.overlap.item()
    ([0, 3, 0, 1], [True, True, False, True], 0.5)
    """
    require_same_vocabulary(logits, teacher_logits)
    vocabulary = logits.shape[-1]
    if not 2 <= k <= vocabulary:
        raise CoterieError(f"k={k!r}: expected 2 to the size of the vocabulary, which is {vocabulary}")
    teachers = teacher_logits.detach().topk(k, dim=-1).indices
    students = logits.detach().topk(k, dim=-1).indices
    repeated = (students.unsqueeze(-1) == teachers.unsqueeze(-2)).any(-1)
    counted = torch.cat([torch.ones_like(repeated), ~repeated], dim=-1)
    return TopUnion(torch.cat([teachers, students], dim=-1), counted, repeated.to(torch.float32).mean(-1))


def soft_rank(values: Tensor, strength: float = 1.0, counted: Tensor | None = None) -> Tensor:
    r"""Differentiable ranks: the smallest has rank 1, the largest rank n.

    The ranks are the projection of values/ε onto the permutahedron. With s the values/ε in descending order and w = (n, ..., 1), the rank of the i-th is
    :math:`s_i - v_i`, where v is the isotonic (non-increasing) regression of s - w, here in its min-max form

    .. math:: v_i = \min_{j \le i} \max_{m \ge i} \mathrm{mean}(s_j - w_j, ..., s_m - w_m)

    which needs O(n²) memory and no loop. Where neighbours differ by more than ε, the ranks are exact and have no gradient; where they differ by much less, the ranks are
    values/ε plus a constant.

    Args:
        values: [..., n].
        strength: ε > 0. Smaller values give harder ranks and less gradient.
        counted: bool [..., n]: which entries are ranked. The others get rank 0 and no gradient. None: all.

    Returns:
        [..., n], in float32 or float64.

    Source: Blondel et al., ICML 2020 ("Fast differentiable sorting and ranking"), section 4, with the quadratic regulariser; equal to torchsort's ``soft_rank``
    with its defaults at ε = 1.

    Raises:
        CoterieError: a strength that is not above 0.

    >>> soft_rank(torch.tensor([0.0, 30.0, 10.0])).tolist()
    [1.0, 3.0, 2.0]
    >>> soft_rank(torch.tensor([0.25, 0.0])).tolist()
    [1.625, 1.375]
    """
    if not strength > 0:
        raise CoterieError(f"strength={strength!r}: expected a number above 0")
    values = at_least_float32(values)
    size = values.shape[-1]
    if counted is None:
        counted = torch.ones_like(values, dtype=torch.bool)
    number = counted.sum(-1, keepdim=True)
    order = values.detach().masked_fill(~counted, float("-inf")).argsort(dim=-1, descending=True, stable=True)
    place = torch.arange(size, device=values.device)
    ranked = place < number  # in descending order, uncounted entries come last
    # Blocks never pool across a gap of n, so larger gaps are clipped to n: the ranks are the same, and float32 suffices for any values and strength.
    ordered = values.gather(-1, order)
    gaps = ((ordered[..., :-1] - ordered[..., 1:]) / strength).clamp(max=float(size))
    gaps = gaps.masked_fill(~ranked[..., 1:], 0.0)
    falling = torch.cat([torch.zeros_like(ordered[..., :1]), -gaps.cumsum(-1)], dim=-1)
    excess = falling - (number - place).to(values.dtype)
    # means[j, m] of the entries j to m, summed from j on: differences of one running sum would lose precision.
    upper = place[:, None] <= place  # j <= m
    sums = torch.where(upper, excess.unsqueeze(-2), 0.0).cumsum(-1)
    means = sums / (place - place[:, None] + 1).clamp(min=1)
    means = means.masked_fill(~(upper & ranked.unsqueeze(-2)), float("-inf"))
    largest = means.flip(-1).cummax(-1).values.flip(-1)  # [j, i]: over m >= i
    pooled = largest.masked_fill(~upper, float("inf")).amin(-2)  # [i]: over j <= i
    ranks = torch.where(ranked, falling - pooled, 0.0)
    return torch.zeros_like(ranks).scatter(-1, order, ranks)


def correlation(first: Tensor, second: Tensor, counted: Tensor | None = None) -> Tensor:
    """Pearson's correlation along the last axis, [...]; 0, without a gradient, if one side is constant.

    Args:
        first: [..., n].
        second: [..., n].
        counted: bool [..., n]: which entries count. None: all.
    """
    counted = torch.ones_like(first, dtype=torch.bool) if counted is None else counted
    number = counted.sum(-1, keepdim=True)

    def centred(values: Tensor) -> Tensor:
        values = torch.where(counted, values, 0.0)
        return torch.where(counted, values - values.sum(-1, keepdim=True) / number, 0.0)

    first, second = centred(first), centred(second)
    squares = first.square().sum(-1), second.square().sum(-1)
    varies = (squares[0] > SMALLEST_VARIANCE) & (squares[1] > SMALLEST_VARIANCE)
    # Constant vectors get a norm of 1, so that no gradient is divided by 0.
    norms = [torch.where(varies, each, 1.0).sqrt() for each in squares]
    return torch.where(varies, (first * second).sum(-1) / (norms[0] * norms[1]), 0.0)


def ranking_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    k: int = 5,
    strength: float = 1.0,
    deduplicate: bool = True,
    measure: Correlation = "spearman",
    union: TopUnion | None = None,
) -> Tensor:
    """1 - ρ over each position's union of most likely tokens, between 0 and 2. The teacher is detached.

    Args:
        logits: the student's, [..., V].
        teacher_logits: [..., V].
        k: number of tokens of each model. A union of two tokens has a correlation of 1 or -1 and hence no gradient.
        strength: ε of :func:`soft_rank`, 1 (code).
        deduplicate: False counts a token in both models' top k twice, as the authors' code does (its ``torch.unique`` acts on whole columns of a batch). This raises ρ:
            0.52 against 0.45 with 200 tokens, logits of standard deviation 3, noise of standard deviation 1 and k = 5 (covered by a test).
        measure: ``spearman``: of ranks; ``pearson``: of the logits themselves, the paper's control (table 8).
        union: result of :func:`top_union` with these logits, if it is computed already.

    Returns:
        [...]. The value is 1, without a gradient, where all logits of the union are equal and have no rank (the authors' code skips the ranking loss of the whole step).

    Raises:
        CoterieError: logits of different shapes; k, strength or measure out of bounds.
    """
    if measure not in ("spearman", "pearson"):
        raise CoterieError(f"measure={measure!r}: expected 'spearman' or 'pearson'")
    union = top_union(logits, teacher_logits, k) if union is None else union
    students = at_least_float32(logits.gather(-1, union.indices))
    teachers = at_least_float32(teacher_logits.detach().gather(-1, union.indices))
    counted = union.counted if deduplicate else None
    if measure == "spearman":
        students, teachers = soft_rank(students, strength, counted), soft_rank(teachers, strength, counted)
    return 1.0 - correlation(students, teachers, counted)


def ranking_distillation(
    logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None = None,
    k: int = 5,
    divergence: DivergenceName | None = "forward_kl",
    ranking_weight: float = 2.0,
    strength: float = 1.0,
    deduplicate: bool = True,
    measure: Correlation = "spearman",
    dynamic_weight: bool = False,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """RLKD: the ranking loss plus a divergence over the whole vocabulary, ``ranking_weight * ranking_loss + divergence``.

    It has no cross-entropy with labels (section 3.3). The authors' code halves the paper's formula: 1 and 1/2.

    Args:
        logits: the student's, [..., V]. Position i of a causal model predicts token i + 1: pass ``logits[:, :-1]``.
        teacher_logits: [..., V], over the same tokens.
        mask: which positions count, [...] (``labels[:, 1:] != -100``), or their weights. None: all.
        k: 5 (paper, with a divergence on downstream tasks; 15 for further pre-training, 10 to 15 without a divergence).
        divergence: ``forward_kl``, ``reverse_kl``, ``jsd``, ``tvd``, ``adaptive_kl``, or None: the ranking loss alone.
        ranking_weight: 2 (equation 1).
        strength: see :func:`ranking_loss`.
        deduplicate: see :func:`ranking_loss`.
        measure: see :func:`ranking_loss`.
        dynamic_weight: weights each position's divergence by the share of tokens that the two top k have in common, without a gradient (appendix D, equation 2, for
            ``forward_kl`` and ``reverse_kl``).
        temperature: of the divergence, 1 (paper).
        reduction: ``mean`` over the positions that count, or ``none``: each position's loss times its weight.

    Returns:
        0-d, or [...] with ``none``.

    Raises:
        CoterieError: shapes that do not fit, or arguments out of bounds.

    >>> student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    >>> round(ranking_distillation(student, teacher, k=3, divergence=None).item(), 3)  # opposite orders: 2 * 2
    4.0
    """
    union = top_union(logits, teacher_logits, k)
    total = ranking_weight * ranking_loss(logits, teacher_logits, k, strength, deduplicate, measure, union)
    if divergence is not None:
        term = find_divergence(divergence)(logits, teacher_logits.detach(), temperature, reduction="none")
        total = total + (union.overlap * term if dynamic_weight else term)
    return reduced(total, mask, reduction)
