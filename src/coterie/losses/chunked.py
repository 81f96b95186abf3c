"""Losses over a vocabulary, computed from hidden states in chunks, so that the logits of all positions are never in memory at once.

A language model's logits [N, V] are its hidden states [N, d] times its classifier's weight [V, d]: 805 MB in float32 for 4,096 positions and a vocabulary
of 49,152, and a distillation loss keeps several tensors of that size. These functions compute logits for one chunk of positions at a time and take each chunk's
gradient immediately, see :mod:`coterie.losses.chunks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from coterie.errors import CoterieError
from coterie.losses.chunks import Chunks, Projection, computed, wide
from coterie.losses.divergences import reduced

CHUNK_ELEMENTS = 2**23  # elements of one logits tensor: 32 MiB in float32
Compare = Callable[[Tensor, Tensor | None, Tensor], dict[str, Tensor]]
"""Logits of students [n, B, V] and teachers [m, B, V] (None without), and targets [B], to 0-d terms by name, each a mean over the B positions."""


def chunked_mean(
    loss: Callable[..., Tensor],
    student: Projection,
    *others: Projection | Tensor,
    weights: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Weighted mean over positions of ``loss(student_logits, *others)``, without the logits of all positions.

    Args:
        loss: takes logits [n, V] of some positions and the same positions of each of the ``others``; returns their values [n]. The value at a position must depend
            on that position only, such as those of :mod:`~coterie.losses.divergences` and :mod:`~coterie.losses.ranking` with ``reduction="none"``.
        student: receives gradients in its hidden states, weight and bias.
        others: a teacher's projection, whose logits are computed in the same chunks without a gradient, or tensors with the student's positions, such as labels
            [...].
        weights: one for each position, [...]: a mask (True counts) or non-negative numbers. Positions of weight 0 are not computed. None: equal weights.
        chunk_size: positions at a time. None: see :func:`chunk_positions` (170 at a vocabulary of 49,152); about six tensors of that size are in memory at once.

    Returns:
        0-d, in float32 or float64; 0 if no position counts. Differentiable once.

    Under autocast the matrix products use its dtype, as a model's own classifier does. With a mask, the number of positions is read on the host. Inside a compiled
    function this part runs uncompiled.

    Raises:
        CoterieError: shapes that do not fit, or a loss that does not return one value for each position.

    >>> from functools import partial
    >>> from coterie.losses import forward_kl
    >>> hidden, weight = torch.ones(3, 2, requires_grad=True), torch.eye(4, 2)
    >>> teacher = Projection(torch.ones(3, 2), weight)
    >>> value = chunked_mean(partial(forward_kl, reduction="none"), Projection(hidden, weight), teacher)
    >>> value.backward()
    >>> value.item(), hidden.grad.shape
    (0.0, torch.Size([3, 2]))
    """
    positions = student.hidden.shape[:-1]
    _require_fitting(student, others, chunk_size)
    if weights is not None and weights.shape != positions:
        raise CoterieError(f"weights have the shape {tuple(weights.shape)}, the positions {tuple(positions)}")
    kept = None if weights is None else weights.reshape(-1).nonzero().squeeze(1)

    def flat(values: Tensor) -> Tensor:
        values = values.reshape(positions.numel(), *values.shape[len(positions) :])
        return values if kept is None else values[kept]

    student = student._replace(hidden=flat(student.hidden))
    rest = [each._replace(hidden=flat(each.hidden)) if isinstance(each, Projection) else flat(each) for each in others]
    shares: Tensor | None = None
    if weights is not None:
        shares = flat(weights).to(wide(student.hidden.dtype))
        shares = shares * (max(1, len(shares)) / shares.sum())

    def mean(logits: list[Tensor], shares: Tensor | None, *others: Tensor) -> dict[str, Tensor]:
        values = loss(logits[0], *others)
        if values.shape != logits[0].shape[:1]:
            raise CoterieError(
                f"the loss gave the shape {tuple(values.shape)} for {len(logits[0])} positions; expected one value each (reduction='none')"
            )
        return {"mean": reduced(values, shares, "none").sum() / max(1, len(values))}

    size = chunk_size or chunk_positions([student])
    return computed(Chunks(mean, [student], [shares, *rest], size))["mean"]


def chunked_terms(
    compare: Compare,
    students: Sequence[Projection],
    teachers: Sequence[Projection | Tensor],
    targets: Tensor,
    *,
    parameters: Sequence[Tensor] = (),
    chunk_size: int | None = None,
) -> dict[str, Tensor]:
    """Computes several terms of several students over the same positions, in one pass, without the logits of all positions.

    Args:
        compare: takes students' logits [n, c, V], teachers' [m, c, V] (None without teachers) and targets [c] of c positions; returns 0-d terms by name, each a
            mean over these positions. A term must not depend on a position's neighbours or on the number of positions.
        students: with hidden states [N, d], whose widths may differ. Hidden states, weights and biases receive gradients.
        teachers: projections, treated as constants; or logits [N, V], if they are computed already.
        targets: [N].
        parameters: trainable parameters that ``compare`` uses.
        chunk_size: positions at a time. None: see :func:`chunk_positions`.

    Returns:
        The terms over all positions, 0-d, in float32 or float64. Differentiable once. The gradient of their sum is computed in the same pass. If the terms are
        weighted unequally afterwards, the gradient is still correct but the chunks are computed a second time.

    Under autocast the matrix products use its dtype; ``compare`` runs outside autocast. No value is read on the host. Inside a compiled function this part runs
    uncompiled.

    Raises:
        CoterieError: shapes that do not fit, no student, or a term that is not 0-d.

    >>> import torch.nn.functional as F
    >>> student = Projection(torch.ones(3, 2, requires_grad=True), torch.eye(4, 2))
    >>> terms = chunked_terms(lambda z, t, y: {"label": F.cross_entropy(z[0], y)}, [student], [], torch.tensor([0, 1, 2]), chunk_size=2)
    >>> {name: round(value.item(), 3) for name, value in terms.items()}
    {'label': 1.34}
    """
    if not students:
        raise CoterieError("chunked_terms: no student; expected at least one")
    _require_fitting(students[0], [*students[1:], *teachers, targets], chunk_size)
    if students[0].hidden.ndim != 2:
        raise CoterieError(f"hidden states of the shape {tuple(students[0].hidden.shape)}: expected [N, d]")

    def terms(logits: list[Tensor], targets: Tensor, *taught: Tensor) -> dict[str, Tensor]:
        return compare(_stacked(logits), _stacked(taught) if taught else None, targets)

    size = chunk_size or chunk_positions(students)
    return computed(Chunks(terms, list(students), [targets, *teachers], size, list(parameters)))


def chunk_positions(students: Sequence[Projection]) -> int:
    """Chunk size for which the students' logits together hold 2^23 numbers, or as many as the largest hidden states.

    The second bound is for large models: a product of few rows takes as long as reading the weight, and the pass already holds tensors as large as the hidden
    states.
    """
    elements = max(CHUNK_ELEMENTS, *(each.hidden.numel() for each in students))
    return max(1, elements // sum(len(each.weight) for each in students))


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return (
        tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tuple(tensors))
    )  # a stack of one would be a copy


def _require_fitting(student: Projection, others: Sequence[Projection | Tensor], chunk_size: int | None) -> None:
    positions = student.hidden.shape[:-1]
    if chunk_size is not None and chunk_size < 1:
        raise CoterieError(f"chunk_size={chunk_size!r}: expected 1 or more positions")
    for each in (student, *others):
        if isinstance(each, Projection) and each.hidden.shape[-1] != each.weight.shape[-1]:
            raise CoterieError(
                f"hidden states of width {each.hidden.shape[-1]} and a classifier's weight {tuple(each.weight.shape)}: expected [V, {each.hidden.shape[-1]}]"
            )
        tensor = each.hidden if isinstance(each, Projection) else each
        if tensor.shape[: len(positions)] != positions:
            raise CoterieError(
                f"a tensor of the shape {tuple(tensor.shape)} stands beside the student's positions {tuple(positions)}"
            )
