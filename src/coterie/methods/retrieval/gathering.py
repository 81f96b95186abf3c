"""Vectors of all processes, with their gradients: in-batch losses then see the documents of the whole batch, however many processes share it."""

from __future__ import annotations

import torch
from torch import Tensor


def gather(vectors: Tensor) -> Tensor:
    """Equally many vectors of each process, [N, D], one process's after the other's: [P * N, D].

    A gradient of any process's loss flows back to the process that computed the vector; gradients are then means over processes, as the losses are.
    """
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(vectors))
