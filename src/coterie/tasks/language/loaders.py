"""Batches of rows: for training in an order that is a function of (seed, epoch), for evaluation in the order of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from coterie.data.batch import Batch
from coterie.data.order import InOrder, Order, longest_first
from coterie.tasks.language.rows import Rows, label_positions, label_targets


def make_batch(rows: Rows, indices: Tensor, device: torch.device) -> Batch:
    """Rows as a batch on the device.

    Args:
        rows: of a split.
        indices: of the rows, int64 [B] on the CPU; -1 fills up.
        device: where the batch goes.

    Returns:
        ``inputs``: a batch as :class:`coterie.tasks.language.causal_lm.CausalLM` takes it: ``input_ids`` int64 [B, W]; ``positions``
        bool [B, W], true where a token that is learnt is predicted; and, of documents, ``attention_mask`` int64 [B, W]: padding stands
        on the right, where a causal model's other positions do not see it. ``targets``: the tokens that these P positions predict,
        int64 [P]. ``indices`` int64 [B].
    """
    tokens, mask, labels = (torch.from_numpy(table) for table in rows.read(indices.numpy()))
    inputs: Any = {"input_ids": _sent(tokens, device), "positions": _sent(label_positions(labels), device)}
    if rows.packing == "documents":
        inputs["attention_mask"] = _sent(mask, device)
    return Batch(inputs, _sent(label_targets(labels), device), _sent(indices, device))


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for a copy to a GPU."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class LanguageTrainLoader(InOrder):
    """Training batches, see :class:`coterie.data.batch.TrainLoader`. Rows are not augmented: all views of one are equal.

    Args:
        rows: of the training split.
        order: of these rows.
        device: where batches go.
    """

    def __init__(self, rows: Rows, order: Order, device: torch.device) -> None:
        self.rows = rows
        self.order = order
        self.device = device
        self.views = 1
        self.repeats = True
        self.ahead = 0

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on: the same whatever was drawn before."""
        for indices in self.order.batches(epoch, first_step):
            batch = make_batch(self.rows, indices, self.device)
            views: Any = [batch.inputs] * self.views
            yield batch if self.views == 1 else batch._replace(inputs=views)


class LanguageEvaluationLoader:
    """Every row once, see :class:`coterie.data.batch.EvaluationLoader`; the longest first, so that little is padded.

    Args:
        rows: of a split.
        batch_size: rows a batch of this process.
        device: where batches go.
        process_index, num_processes: this process's place.
    """

    def __init__(
        self, rows: Rows, batch_size: int, device: torch.device, process_index: int = 0, num_processes: int = 1
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.device = device
        self.indices = longest_first(torch.from_numpy(rows.lengths), process_index, num_processes)

    @property
    def num_samples(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Batch]:
        for indices in self.indices.split(self.batch_size):
            yield make_batch(self.rows, indices, self.device)
