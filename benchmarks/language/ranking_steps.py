"""The training loop of benchmarks/language/ranking.py: AdamW, gradient clipping, a cosine learning rate schedule to 0."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from coterie.data.batch import Batch
from coterie.methods.method import Method

CLIP = 1.0


def stepper(method: Method, rate: float, steps: int) -> Callable[[Batch], dict[str, Tensor]]:
    """Return a function that makes one training step with a batch and returns its losses. ``rows`` among the inputs are the indices of the batch's rows."""
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def step(batch: Batch) -> dict[str, Tensor]:
        losses = method({**batch.inputs, "rows": batch.indices}, batch.targets)
        optimizer.zero_grad(set_to_none=True)
        total: Any = sum(losses.values())
        total.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
        return losses

    return step


def train(method: Method, batches: Iterator[Batch], rate: float, steps: int) -> dict[str, Any]:
    """Train for ``steps`` steps; return the means of the losses over the first and the last tenth, and the CPU seconds."""
    method.train()
    step, found = stepper(method, rate, steps), []
    began = time.process_time()
    for batch in islice(batches, steps):
        found.append({name: value.item() for name, value in step(batch).items()})
    tenth = max(1, steps // 10)
    first, last = (
        {name: statistics.fmean(each[name] for each in part) for name in part[0]}
        for part in (found[:tenth], found[-tenth:])
    )
    return {"first": first, "last": last, "cpu_seconds": time.process_time() - began}
