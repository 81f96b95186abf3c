"""Inputs of a batch as nested structures of tensors: one tensor, or mappings and tuples of tensors that all have the samples as first axis.

A list is never one of them: it holds one batch for each view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Inputs = Any  # a Tensor, or a mapping or tuple of Inputs; or a list of those, one view for each student


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """All tensors of a batch or of its views, in a fixed order."""
    leaves: list[Tensor] = pytree.tree_leaves(inputs)
    return leaves


def batch_size(inputs: Inputs) -> int:
    """Samples of one batch."""
    return len(tensors_of(inputs)[0])


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    """A batch, or its views, on a device."""
    return pytree.tree_map(lambda tensor: tensor.to(device), inputs)


def cloned(inputs: Inputs) -> Inputs:
    """A copy of every tensor."""
    return pytree.tree_map(torch.clone, inputs)


def concatenated(batches: Sequence[Inputs]) -> Inputs:
    """Batches of one structure behind one another."""
    first = batches[0]
    if isinstance(first, Tensor):  # without a detour where a compiled step looks on
        return torch.cat(list(batches))
    return pytree.tree_map(lambda *parts: torch.cat(parts), *batches)


def split(inputs: Inputs, size: int) -> list[Inputs]:
    """One batch in parts of at most so many samples."""
    count = batch_size(inputs)
    return [pytree.tree_map(lambda tensor, at=at: tensor[at : at + size], inputs) for at in range(0, count, size)]
