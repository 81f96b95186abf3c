"""Inputs of a batch as nested structures of tensors: one tensor, or mappings and tuples of tensors that all have samples along the first axis.

A list is never such a structure: it holds one batch for each view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Inputs = Any  # a Tensor, or a mapping or tuple of Inputs; or a list of those, one view for each student


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """Returns all tensors of a batch or of its views, in a fixed order."""
    leaves: list[Tensor] = pytree.tree_leaves(inputs)
    return leaves


def batch_size(inputs: Inputs) -> int:
    """Returns the number of samples of one batch."""
    return len(tensors_of(inputs)[0])


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    """Moves a batch, or its views, to a device."""
    return pytree.tree_map(lambda tensor: tensor.to(device), inputs)


def cloned(inputs: Inputs) -> Inputs:
    """Copies every tensor."""
    return pytree.tree_map(torch.clone, inputs)


def concatenated(batches: Sequence[Inputs]) -> Inputs:
    """Concatenates batches of the same structure."""
    first = batches[0]
    if isinstance(first, Tensor):  # direct path for compiled steps
        return torch.cat(list(batches))
    return pytree.tree_map(lambda *parts: torch.cat(parts), *batches)


def split(inputs: Inputs, size: int) -> list[Inputs]:
    """Splits one batch into parts of at most ``size`` samples."""
    count = batch_size(inputs)
    return [pytree.tree_map(lambda tensor, at=at: tensor[at : at + size], inputs) for at in range(0, count, size)]
