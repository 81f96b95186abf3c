"""Losses over a vocabulary from hidden states: the logits of all positions never exist at once.

A language model's logits [N, V] are its hidden states [N, d] times its classifier's weight [V, d]: 805 MB in float32 for 4,096 positions and a vocabulary
of 49,152, and a distillation loss keeps several tensors of that size. Here they are made for some positions at a time. Since the loss is a mean over
positions, each chunk's gradient is known as soon as its logits are there: it is taken at once, by autograd on the chunk, and only the gradients of
hidden states, weight and bias are kept. So nothing is computed twice, and the backward pass multiplies by the loss's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.errors import CoterieError
from coterie.losses.divergences import reduced

CHUNK_ELEMENTS = 2**23  # of one logits tensor: 32 MiB in float32


class Projection(NamedTuple):
    """Logits that are not multiplied out: ``hidden @ weight.T + bias``."""

    hidden: Tensor
    """[..., d]: what the classifier reads."""
    weight: Tensor
    """[V, d]: the classifier's."""
    bias: Tensor | None = None
    """[V]."""


def chunked_mean(
    loss: Callable[..., Tensor],
    student: Projection,
    *others: Projection | Tensor,
    weights: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Weighted mean over positions of ``loss(student_logits, *others)``, without the logits of all positions.

    Args:
        loss: takes logits [n, V] of some positions, and the same positions of each of the ``others``; returns their values [n]. Any loss whose value at a position
            depends on that position alone, such as those of :mod:`~coterie.losses.divergences` and :mod:`~coterie.losses.ranking` with ``reduction="none"``.
        student: gradients go to its hidden states, weight and bias.
        others: a teacher's projection, multiplied out in the same chunks (a constant: no gradient), or tensors with the student's positions, such as labels [...].
        weights: of the positions, [...]: a mask (True counts), or numbers that are not negative. Positions of weight 0 are not computed. None: all count alike.
        chunk_size: positions at a time. None: as many as make one tensor of 2^23 logits (170 at a vocabulary of 49,152); half a dozen such tensors live at once.

    Returns:
        0-d, in float32 or float64; 0 where no position counts. Once differentiable.

    Under autocast the products are in its type, as a model's own classifier has them. With a mask the number of positions is read on the host. A compiled
    function runs this part as it is.

    Raises:
        CoterieError: shapes that do not fit, or a loss that does not give one value for each position.

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
    _require_fitting(student, others, weights, chunk_size)
    kept = None if weights is None else weights.reshape(-1).nonzero().squeeze(1)

    def flat(values: Tensor) -> Tensor:
        values = values.reshape(positions.numel(), *values.shape[len(positions) :])
        return values if kept is None else values[kept]

    rest = [each._replace(hidden=flat(each.hidden)) if isinstance(each, Projection) else flat(each) for each in others]
    size = chunk_size or max(1, CHUNK_ELEMENTS // len(student.weight))
    weighs = None if weights is None else flat(weights)
    hidden = flat(student.hidden)
    return _apply(hidden, student.weight, student.bias, loss, rest, weighs, size, torch.is_grad_enabled())


@torch.compiler.disable
def _apply(*arguments: Any) -> Tensor:
    return _ChunkedMean.apply(*arguments)


class _ChunkedMean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        loss: Callable[..., Tensor],
        others: list[Projection | Tensor],
        weights: Tensor | None,
        size: int,
        grad_enabled: bool,
    ) -> Tensor:
        wanted = [grad_enabled and each for each in ctx.needs_input_grad[:3]]
        head = _in_product_type(Projection(hidden, weight, bias))
        others = [_in_product_type(each) if isinstance(each, Projection) else each for each in others]
        # Sums of many chunks are kept in float32, whatever the type of the parameters is.
        wide = torch.promote_types(hidden.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            gradients = [
                torch.zeros(each.shape, dtype=wide, device=each.device) if each is not None and needed else None
                for each, needed in zip((hidden, weight, bias), wanted, strict=True)
            ]
            number = max(1, len(hidden))
            if weights is not None:
                weights = weights.to(wide)
                weights = weights * (number / weights.sum())
            value = torch.zeros((), dtype=wide, device=hidden.device)
            for start in range(0, len(hidden), size):
                part = slice(start, start + size)
                chunk = [_logits(each, part) if isinstance(each, Projection) else each[part] for each in others]
                value += _chunk(loss, head, part, chunk, None if weights is None else weights[part], gradients)
        ctx.save_for_backward(*gradients)
        ctx.types = [None if each is None else each.dtype for each in (hidden, weight, bias)]
        ctx.number = number
        return value / number

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        factor = gradient / ctx.number
        scaled = [
            None if each is None else (each * factor).to(kind)
            for each, kind in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return *scaled, None, None, None, None, None


def _chunk(
    loss: Callable[..., Tensor],
    head: Projection,
    part: slice,
    others: list[Tensor],
    weights: Tensor | None,
    gradients: list[Tensor | None],
) -> Tensor:
    """Sum over one chunk; its gradients are added to (hidden, weight, bias).

    Of the sum and not of the mean: in float16 the gradients of a mean over thousands of positions would vanish before a gradient scaler sees them.
    """
    logits = _logits(head, part)
    needed = any(each is not None for each in gradients)
    with torch.set_grad_enabled(needed):
        logits.requires_grad_(needed)
        values = loss(logits, *others)
        if values.shape != logits.shape[:1]:
            raise CoterieError(
                f"the loss gave the shape {tuple(values.shape)} for {len(logits)} positions; expected one value each (reduction='none')"
            )
        value = reduced(values, weights, "none").sum()
    if not needed:
        return value
    (of_logits,) = torch.autograd.grad(value, logits)
    hidden, weight, bias = gradients
    if hidden is not None:
        hidden[part] = of_logits @ head.weight
    if weight is not None:
        _add_product(weight, of_logits.T, head.hidden[part])
    if bias is not None:
        bias += of_logits.sum(0, dtype=bias.dtype)
    return value.detach()


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """``target += left @ right``, without a second tensor of the target's size where the types are equal."""
    if target.dtype == left.dtype:
        target.addmm_(left, right)
    else:
        target += left @ right


def _logits(head: Projection, part: slice) -> Tensor:
    return torch.nn.functional.linear(head.hidden[part], head.weight, head.bias)


def _in_product_type(head: Projection) -> Projection:
    """Autocast's type where it is on; once, and not for each chunk."""
    device = head.hidden.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.hidden.dtype
    return Projection(head.hidden.to(kind), head.weight.to(kind), None if head.bias is None else head.bias.to(kind))


def _require_fitting(
    student: Projection, others: tuple[Projection | Tensor, ...], weights: Tensor | None, chunk_size: int | None
) -> None:
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
    if weights is not None and weights.shape != positions:
        raise CoterieError(f"weights have the shape {tuple(weights.shape)}, the positions {tuple(positions)}")
