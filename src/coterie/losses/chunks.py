"""A pass over positions in chunks that computes the terms' values and gradients; the basis of :mod:`coterie.losses.chunked`.

The terms are means over positions, so each chunk's gradient can be taken as soon as its logits exist. Autograd runs on the chunk, and only the gradients of hidden
states, weights and biases are kept. Nothing is computed twice, and the backward pass multiplies by the loss's own gradient. The chunks are computed again only if
terms are weighted unequally afterwards or the backward pass runs twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.errors import CoterieError

Finish = Callable[[Tensor], Tensor]


class Projection(NamedTuple):
    """Logits that are not computed yet: ``finish(hidden @ weight.T + bias)``."""

    hidden: Tensor
    """[..., d]: what the classifier reads."""
    weight: Tensor
    """[V, d]: the classifier's."""
    bias: Tensor | None = None
    """[V]."""
    finish: Finish | None = None
    """What a network does to the products [n, V], position by position: a cap, a scale, a cut to fewer columns. None: nothing."""


def wide(kind: torch.dtype) -> torch.dtype:
    """Returns the dtype of sums over chunks: at least float32, whatever the parameters' dtype."""
    return torch.promote_types(kind, torch.float32)


@dataclass
class Chunks:
    """A pass over all positions, chunk by chunk."""

    terms: Callable[..., dict[str, Tensor]]
    """Students' logits, a list of [c, V], and chunks of the others, to 0-d terms by name."""
    students: list[Projection]
    others: list[Projection | Tensor | None]
    size: int
    parameters: list[Tensor] = field(default_factory=list)
    kind: torch.dtype | None = None
    """Of the products; None: that of the hidden states."""

    def tensors(self) -> list[Tensor | None]:
        """Tensors that may receive gradients: hidden states, weight and bias of each student, then the parameters."""
        return [*(each for head in self.students for each in head[:3]), *self.parameters]

    def run(
        self, wanted: Sequence[bool], factors: Sequence[Tensor] | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        """Returns the terms, and the gradients of their sum (weighted by their factors) times the number of positions; None where no gradient is needed.

        The gradient of the mean itself would underflow in float16 before a gradient scaler sees it, with thousands of positions.
        """
        first = self.students[0].hidden
        with torch.autocast(first.device.type, enabled=False):
            heads = [self._in_product_type(each) for each in self.students]
            others = [self._in_product_type(each) if isinstance(each, Projection) else each for each in self.others]
            gradients = [
                torch.zeros(each.shape, dtype=wide(each.dtype), device=each.device)
                if each is not None and needed
                else None
                for each, needed in zip(self.tensors(), wanted, strict=True)
            ]
            number = max(1, len(first))
            sums: dict[str, Tensor] = {}
            for start in range(0, number, self.size):
                part = slice(start, start + self.size)
                found = self._chunk(heads, [_chunk_of(each, part) for each in others], part, gradients, factors)
                share = len(first[part]) / number
                for name, value in found.items():
                    value = value.to(wide(value.dtype)) * share
                    sums[name] = sums[name] + value if name in sums else value
        return sums, gradients

    def _chunk(
        self,
        heads: list[Projection],
        others: list[Tensor | None],
        part: slice,
        gradients: list[Tensor | None],
        factors: Sequence[Tensor] | None,
    ) -> dict[str, Tensor]:
        """Returns the terms of one chunk and accumulates its gradients."""
        needed = any(each is not None for each in gradients)
        products = [_product(head, part) for head in heads]
        with torch.set_grad_enabled(needed):
            for each in products:
                each.requires_grad_(needed)
            logits = [_finished(head, each) for head, each in zip(heads, products, strict=True)]
            terms = self.terms(logits, *others)
            for name, value in terms.items():
                if value.ndim:
                    raise CoterieError(f"the term {name!r} has the shape {tuple(value.shape)}; expected a 0-d mean")
            if needed:
                values = torch.stack(tuple(terms.values()))
                if factors is not None:
                    values = values * torch.stack(tuple(factors)).to(values.dtype)
                total = values.sum() * len(products[0])
        if needed and total.requires_grad:
            self._add(
                heads, part, gradients, torch.autograd.grad(total, [*products, *self._learning()], allow_unused=True)
            )
        return {name: value.detach() for name, value in terms.items()}

    def _learning(self) -> list[Tensor]:
        return [each for each in self.parameters if each.requires_grad]

    def _add(
        self,
        heads: list[Projection],
        part: slice,
        gradients: list[Tensor | None],
        found: Sequence[Tensor | None],
    ) -> None:
        for number, (head, of_logits) in enumerate(zip(heads, found[: len(heads)], strict=True)):
            hidden, weight, bias = gradients[3 * number : 3 * number + 3]
            if of_logits is None:
                continue
            if hidden is not None:
                hidden[part] = of_logits @ head.weight
            if weight is not None:
                _add_product(weight, of_logits.T, head.hidden[part])
            if bias is not None:
                bias += of_logits.sum(0, dtype=bias.dtype)
        own = [each for each in gradients[3 * len(heads) :] if each is not None]
        for total, value in zip(own, found[len(heads) :], strict=True):
            if value is not None:
                total += value

    def _in_product_type(self, head: Projection) -> Projection:
        """Casts the weight once, not for each chunk."""
        kind = self.kind or head.hidden.dtype
        bias = None if head.bias is None else head.bias.to(kind)
        return head._replace(hidden=head.hidden.to(kind), weight=head.weight.to(kind), bias=bias)


@torch.compiler.disable
def computed(chunks: Chunks) -> dict[str, Tensor]:
    """Returns the terms, 0-d, connected to autograd if a gradient is needed."""
    device = chunks.students[0].hidden.device.type
    chunks.kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    tensors = chunks.tensors()
    if not torch.is_grad_enabled() or not any(each is not None and each.requires_grad for each in tensors):
        with torch.no_grad():
            return chunks.run([False] * len(tensors))[0]
    names: list[str] = []
    return dict(zip(names, _ChunkedTerms.apply(chunks, names, *tensors), strict=True))


class _ChunkedTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chunks: Chunks, names: list[str], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        terms, ctx.gradients = chunks.run(ctx.needs_input_grad[2:])
        names.extend(terms)
        ctx.chunks = chunks
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return tuple(terms.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *factors: Tensor | None) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if all(each is None for each in factors):
            return (None,) * (2 + len(ctx.chunks.tensors()))
        factor = next(each for each in factors if each is not None)
        if gradients is None or not _are_one(factors):
            _ = ctx.saved_tensors  # raises if they were modified in place or freed
            weights = [torch.zeros_like(factor) if each is None else each for each in factors]
            _, gradients = ctx.chunks.run(ctx.needs_input_grad[2:], weights)
            factor = torch.ones_like(factor)
        factor = factor / max(1, len(ctx.chunks.students[0].hidden))
        # Given away to autograd: a second backward pass computes new ones.
        scaled = [
            None if total is None else total.mul_(factor).to(tensor.dtype)
            for total, tensor in zip(gradients, ctx.chunks.tensors(), strict=True)
        ]
        return None, None, *scaled


def _are_one(factors: Sequence[Tensor | None]) -> bool:
    """Whether all terms have the same factor, as in their sum. On a GPU this is known only if the factors are one tensor, since no value is read on the host."""
    first = factors[0]
    if first is None or any(each is None for each in factors):
        return False
    alike = [each for each in factors if each is not None]
    return all(each.data_ptr() == first.data_ptr() for each in alike) or (
        first.device.type == "cpu" and all(torch.equal(each, first) for each in alike)
    )


def _chunk_of(other: Projection | Tensor | None, part: slice) -> Tensor | None:
    if isinstance(other, Projection):
        with torch.no_grad():
            return projected(other, part)
    return None if other is None else other[part]


def projected(head: Projection, part: slice) -> Tensor:
    """Logits of some positions, [c, V]."""
    return _finished(head, torch.nn.functional.linear(head.hidden[part], head.weight, head.bias))


def _product(head: Projection, part: slice) -> Tensor:
    with torch.no_grad():
        return torch.nn.functional.linear(head.hidden[part], head.weight, head.bias)


def _finished(head: Projection, products: Tensor) -> Tensor:
    return products if head.finish is None else head.finish(products)


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """``target += left @ right``, without a second tensor of the target's size if the dtypes are equal."""
    if target.dtype == left.dtype:
        target.addmm_(left, right)
    else:
        target += left @ right
