"""Gathers vectors of all processes with gradients, so that in-batch losses see the documents of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor


def gather(vectors: Tensor) -> Tensor:
    """Gathers vectors [N, D], equally many of each process, concatenated by process: [P * N, D].

    Gradients of every process's loss flow back to the process that computed the vector; they are means over processes, like the losses.
    """
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(vectors))
