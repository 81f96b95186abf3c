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
    """Rows as a batch on the device.

    Args:
        rows: of a split.
        indices: of the rows, int64 [B] on the CPU; -1 fills up.
        device: where the batch goes.
        weight: of the batch.

    Returns:
        ``inputs``: a batch as :class:`coterie.tasks.language.causal_lm.CausalLM` takes it: ``input_ids`` int64 [B, W], and ``positions``,
        the places in the rows, one after the other, at which a token that is learnt is predicted, int64 [P]. Padding stands on the right,
        where no position that counts sees it: it needs no mask. ``targets``: the tokens that these positions predict, int64 [P].
        ``indices`` int64 [B].
    """
    tokens, labels = (torch.from_numpy(table) for table in rows.read(indices.numpy()))
    places = label_positions(labels).flatten().nonzero().squeeze(1)
    inputs: Any = {"input_ids": _to_device(tokens, device), "positions": _to_device(places, device)}
    return Batch(inputs, _to_device(label_targets(labels), device), _to_device(indices, device), weight)


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for a copy to a GPU."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class LanguageTrainLoader(InOrder):
    """Training batches, see :class:`coterie.data.batch.TrainLoader`. Rows are not augmented: all views of one are equal.

    A loss is a mean over a batch's positions that count, of which batches have unequally many. Their weights make the mean over processes, and over
    batches that are added up before a step, one over all these positions.

    Args:
        rows: of the training split.
        order: of these rows.
        device: where batches go.
        accumulate: batches that are added up.
    """

    def __init__(self, rows: Rows, order: Order, device: torch.device, accumulate: int = 1) -> None:
        self.rows = rows
        self.order = order
        self.device = device
        self.accumulate = accumulate
        self.views = 1
        self.repeats = False  # what teachers say of every position is too much to be kept
        self.ahead = 0

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on: the same whatever was drawn before."""
        weights = self._weights(epoch)
        for step, indices in enumerate(self.order.batches(epoch, first_step), first_step):
            batch = make_batch(self.rows, indices, self.device, weights[step])
            views: Any = [batch.inputs] * self.views
            yield batch if self.views == 1 else batch._replace(inputs=views)

    def _weights(self, epoch: int) -> list[float]:
        """Of this process's share of each step: its positions over the mean share's, among all that one optimizer's step adds up."""
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
    """Every row once, see :class:`coterie.data.batch.EvaluationLoader`; the longest first, so that little is padded.

    Args:
        rows: of a split.
        batch_size: rows a batch of this process.
        device: where batches go.
        process_index, num_processes: this process's place.
        limit: of rows, which are taken at equal distances where there are more; None: all.
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
