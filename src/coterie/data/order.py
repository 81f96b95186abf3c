"""Which samples a step sees: a function of (seed, epoch), cut into batches and into the processes' shares of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.errors import CoterieError
from coterie.randomness import derive_seed

DRAWN_TOGETHER = 50  # batches among whose samples lengths are sorted


@dataclass(frozen=True)
class Order:
    """Order of the training samples.

    Args:
        num_samples: in the split.
        batch_size: over all processes; the last incomplete batch of an epoch is dropped. A set smaller than a batch is one
            batch, which several processes cannot share evenly: they refuse it.
        seed: of the run.
        process_index, num_processes: process p of P takes the pth part of every batch.
        lengths: int64 [N] on the CPU, where samples of about one length shall share a batch, so that little of it is padding; a
            process then takes every Pth sample of a batch, so that all have about equally much to do.
    """

    num_samples: int
    batch_size: int
    seed: int
    process_index: int = 0
    num_processes: int = 1
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        if self.batch_size % self.num_processes:
            raise CoterieError(
                f"training.batch_size={self.batch_size} counts all processes' samples and must be a multiple of their number, {self.num_processes}"
            )
        if self.batch_size > self.num_samples and self.num_processes > 1:
            raise CoterieError(
                f"training.batch_size={self.batch_size} is above the number of training samples, {self.num_samples}: lower it"
            )

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.num_samples // self.batch_size)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Tensor]:
        """This process's sample numbers, int64 on the CPU, of each step from ``first_step`` on."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        order = torch.randperm(self.num_samples, generator=generator)
        if self.lengths is not None:
            order = self._grouped(order, self.lengths, generator)
        for step in range(first_step, self.steps_per_epoch):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            if self.lengths is not None:
                yield batch[self.process_index :: self.num_processes]
                continue
            share = len(batch) // self.num_processes
            yield batch[self.process_index * share : (self.process_index + 1) * share]

    def _grouped(self, order: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """The samples of an epoch, such that each batch holds about one length: of some batches drawn together the samples are
        sorted, and all batches of the epoch then come in a random order. Which samples an epoch leaves out stays a matter of chance.
        """
        size = min(self.batch_size, self.num_samples)
        drawn = order[: self.steps_per_epoch * size].split(DRAWN_TOGETHER * size)
        batches = torch.cat([part[lengths[part].argsort(descending=True, stable=True)] for part in drawn]).view(
            -1, size
        )
        return batches[torch.randperm(len(batches), generator=generator)].flatten()


class InOrder:
    """What loaders of training batches have in common: they follow an order."""

    order: Order

    @property
    def num_samples(self) -> int:
        return self.order.num_samples

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch


def evaluation_share(num_samples: int, process_index: int, num_processes: int) -> Tensor:
    """The sample numbers that a process evaluates, filled up with -1 so that all processes have equally many."""
    share = -(-num_samples // num_processes)
    numbers = torch.arange(process_index * share, (process_index + 1) * share)
    return torch.where(numbers < num_samples, numbers, -1)


def longest_first(lengths: Tensor, process_index: int, num_processes: int) -> Tensor:
    """The samples that a process evaluates, from the longest on, filled up with -1 so that all processes have equally many.

    A process takes every Pth one, so that the batches of all are about equally long, and hold little padding.

    Args:
        lengths: int64 [N].
        process_index, num_processes: p of P.
    """
    filled = torch.full((-(-len(lengths) // num_processes) * num_processes,), -1)
    filled[: len(lengths)] = lengths.argsort(descending=True, stable=True)
    return filled[process_index::num_processes]
