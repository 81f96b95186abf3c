"""Order of samples as a function of (seed, epoch), divided into batches and the processes' shares of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.errors import CoterieError
from coterie.randomness import derive_seed

STREAMS = 16  # most streams of shards from which a batch is drawn
BUFFER = 1_000  # size of a stream's shuffle buffer
DRAWN_TOGETHER = 50  # number of batches whose samples are sorted by length together


@dataclass(frozen=True)
class Shards:
    """Archives of samples that are best read in sequence.

    Args:
        numbers: int64 [N], the archive of each sample, in storage order.
        streams: most streams from which a batch is drawn.
        buffer: size of a stream's shuffle buffer.
    """

    numbers: NDArray[np.int64]
    streams: int = STREAMS
    buffer: int = BUFFER


@dataclass(frozen=True)
class Order:
    """Order of the training samples.

    Args:
        num_samples: number of samples in the split.
        batch_size: over all processes; an epoch's last incomplete batch is dropped. A set smaller than a batch is one batch; several processes cannot share it
            evenly and reject it.
        seed: seed of the run.
        process_index, num_processes: process p of P takes the pth part of every batch.
        lengths: int64 [N] on the CPU, to batch samples of similar length and so reduce padding. A process then takes every Pth sample of a batch, so that all
            have a similar load.
        shards: the archives of the samples, to read them sequentially: see :func:`by_shards`.
    """

    num_samples: int
    batch_size: int
    seed: int
    process_index: int = 0
    num_processes: int = 1
    lengths: Tensor | None = None
    shards: Shards | None = None

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
        """Yields this process's sample indices, int64 on the CPU, for each step from ``first_step`` on."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        if self.shards is not None:
            order = by_shards(self.shards, self.steps_per_epoch, self.batch_size, generator)
        else:
            order = torch.randperm(self.num_samples, generator=generator)
        if self.lengths is not None:
            order = self._grouped(order, self.lengths, generator)
        for step in range(first_step, self.steps_per_epoch):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self.share(batch, self.process_index)

    def share(self, batch: Tensor, process_index: int) -> Tensor:
        """Returns one process's share of a global batch."""
        if self.lengths is not None:
            return batch[process_index :: self.num_processes]
        share = len(batch) // self.num_processes
        return batch[process_index * share : (process_index + 1) * share]

    @property
    def whole(self) -> Order:
        """The same order with undivided batches."""
        return replace(self, process_index=0, num_processes=1)

    def _grouped(self, order: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """Groups an epoch's samples into batches of similar length: samples are sorted within chunks of several batches, then all batches are
        shuffled. Which samples an epoch drops remains random.
        """
        size = min(self.batch_size, self.num_samples)
        drawn = order[: self.steps_per_epoch * size].split(DRAWN_TOGETHER * size)
        batches = torch.cat([part[lengths[part].argsort(descending=True, stable=True)] for part in drawn]).view(
            -1, size
        )
        return batches[torch.randperm(len(batches), generator=generator)].flatten()


def by_shards(shards: Shards, steps: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Returns an order of samples that reads archives nearly sequentially: shuffled by shard and buffer.

    Shards are shuffled. Their concatenated samples are divided into up to ``shards.streams`` streams of equal length, each of which supplies an equal share of every
    batch. Within a stream a sample moves by less than ``shards.buffer`` places. The order depends on the generator only. If the number of processes divides the number of streams,
    each process reads separate streams, and the batches are the same for any number of processes. Which samples an incomplete last batch drops is random.

    Args:
        shards: shard of each sample, number of streams, size of the buffer.
        steps: batches of the epoch.
        batch_size: samples of each batch; N if there are fewer.
        generator: generator of the epoch.

    Returns:
        Sample indices int64 [steps * batch_size], without repetition.
    """
    numbers = torch.from_numpy(shards.numbers)
    size = min(batch_size, len(numbers))
    rank = torch.randperm(int(numbers.max()) + 1, generator=generator)
    sequence = rank[numbers].argsort(stable=True)[: steps * size]
    streams = max(number for number in range(1, shards.streams + 1) if size % number == 0)
    places = torch.arange(len(sequence) // streams, dtype=torch.float64)
    drawn = places + shards.buffer * torch.rand(streams, len(places), generator=generator, dtype=torch.float64)
    shuffled = sequence.view(streams, -1).gather(1, drawn.argsort(dim=1))
    return shuffled.view(streams, steps, size // streams).transpose(0, 1).reshape(-1)


class InOrder:
    """Base of loaders of training batches, which follow an order."""

    order: Order

    @property
    def num_samples(self) -> int:
        return self.order.num_samples

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch


def evaluation_share(num_samples: int, process_index: int, num_processes: int) -> Tensor:
    """Returns the sample indices that a process evaluates, padded with -1 so that all processes have equally many."""
    share = -(-num_samples // num_processes)
    numbers = torch.arange(process_index * share, (process_index + 1) * share)
    return torch.where(numbers < num_samples, numbers, -1)


def longest_first(lengths: Tensor, process_index: int, num_processes: int) -> Tensor:
    """Returns the samples that a process evaluates, longest first, padded with -1 so that all processes have equally many.

    A process takes every Pth one, so that all processes' batches have similar lengths and little padding.

    Args:
        lengths: int64 [N].
        process_index, num_processes: p of P.
    """
    filled = torch.full((-(-len(lengths) // num_processes) * num_processes,), -1)
    filled[: len(lengths)] = lengths.argsort(descending=True, stable=True)
    return filled[process_index::num_processes]
