"""Batches of rows: for training in an order that is a function of (seed, epoch), for evaluation in the order of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.data.batch import Batch
from coterie.data.order import InOrder, Order, longest_first
from coterie.tasks.language.data.rows import Rows, label_positions, label_targets


def make_batch(rows: Rows, indices: Tensor, device: torch.device, weight: float = 1.0) -> Batch:
    """Make a batch of rows on the device.

    Args:
        rows: rows of a split.
        indices: indices of the rows, int64 [B] on the CPU; -1 is a filler.
        device: device of the batch.
        weight: weight of the batch.

    Returns:
        ``inputs``: a batch for :class:`coterie.tasks.language.causal_lm.CausalLM`: ``input_ids`` int64 [B, W], and ``positions`` int64 [P],
        the indices into the flattened rows at which a learnt token is predicted. Padding is on the right, where no position that
        counts attends to it, so it needs no mask. ``targets``: the tokens that these positions predict, int64 [P].
        ``indices`` int64 [B].
    """
    tokens, labels = (torch.from_numpy(table) for table in rows.read(indices.numpy()))
    places = label_positions(labels).flatten().nonzero().squeeze(1)
    inputs: Any = {"input_ids": _to_device(tokens, device), "positions": _to_device(places, device)}
    return Batch(inputs, _to_device(label_targets(labels), device), _to_device(indices, device), weight)


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device, asynchronously for a GPU."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class LanguageTrainLoader(InOrder):
    """Training batches, see :class:`coterie.data.batch.TrainLoader`. Rows are not augmented, so all views of a row are equal.

    A loss is a mean over the positions of a batch that count, and batches have different numbers of them. The batch weights turn the mean over processes
    and accumulated batches into a mean over all these positions.

    Args:
        rows: rows of the training split.
        order: order of these rows.
        device: device of the batches.
        accumulate: batches to accumulate before a step.
    """

    def __init__(self, rows: Rows, order: Order, device: torch.device, accumulate: int = 1) -> None:
        self.rows = rows
        self.order = order
        self.device = device
        self.accumulate = accumulate
        self.views = 1
        self.repeats = False  # teacher logits of every position are too large to cache
        self.ahead = 0

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from a step on; they do not depend on earlier batches."""
        weights = self._weights(epoch)
        for step, indices in enumerate(self.order.batches(epoch, first_step), first_step):
            batch = make_batch(self.rows, indices, self.device, weights[step])
            views: Any = [batch.inputs] * self.views
            yield batch if self.views == 1 else batch._replace(inputs=views)

    def _weights(self, epoch: int) -> list[float]:
        """Weights of this process's batches: its positions over the mean number of positions of all batches in the same optimizer step."""
        steps, processes = self.steps_per_epoch, self.order.num_processes
        if processes == self.accumulate == 1:
            return [1.0] * steps
        whole = replace(self.order, process_index=0, num_processes=1)
        own, all_ = (
            np.array([self.rows.counts[indices.numpy()].sum() for indices in order.batches(epoch)])
            for order in (self.order, whole)
        )
        together = [slice(start, start + self.accumulate) for start in range(0, steps, self.accumulate)]
        shares = [own[part] * processes * len(own[part]) / all_[part].sum() for part in together]
        return [float(share) for share in np.concatenate(shares)]


class LanguageEvaluationLoader:
    """Every row once, the longest first to reduce padding. See :class:`coterie.data.batch.EvaluationLoader`.

    Args:
        rows: rows of a split.
        batch_size: rows per batch of this process.
        device: device of the batches.
        process_index, num_processes: rank of this process and number of processes.
        limit: largest number of rows, evenly spaced; None: all.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        device: torch.device,
        process_index: int = 0,
        num_processes: int = 1,
        limit: int | None = None,
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.device = device
        self.num_samples = min(len(rows), limit or len(rows))
        numbers = torch.arange(self.num_samples) * len(rows) // self.num_samples
        found = longest_first(torch.from_numpy(rows.lengths)[numbers], process_index, num_processes)
        self.indices = torch.where(found < 0, -1, numbers[found])

    def __iter__(self) -> Iterator[Batch]:
        for indices in self.indices.split(self.batch_size):
            yield make_batch(self.rows, indices, self.device)
