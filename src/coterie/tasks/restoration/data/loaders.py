"""Batches of small and large images: squares in the run's order for training, squares or whole images in sequence for evaluation.

Threads crop and degrade images while the device computes. All random values derive from (seed, epoch, sample), so pixels depend neither on threads nor on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from coterie.data.batch import Batch, Loaders, SetInfo
from coterie.data.order import InOrder, Order, evaluation_share
from coterie.randomness import derive_seed
from coterie.tasks.restoration.data.degradation import Draws, degrade
from coterie.tasks.restoration.data.pictures import Picture
from coterie.tasks.restoration.data.sets import RestorationSets, Square, describe
from coterie.tasks.restoration.settings import RestorationData

MEASURED = 64  # training squares to evaluate at the end
TOGETHER = 16  # squares per evaluation batch
Pair = tuple[Tensor, Tensor]  # small and large image


def turned(image: Tensor, way: int) -> Tensor:
    """Apply one of the eight rotations and reflections to a square [..., S, S]."""
    image = image.flip(-1) if way & 1 else image
    image = image.flip(-2) if way & 2 else image
    return image.transpose(-1, -2) if way & 4 else image


class SquareLoader(InOrder):
    """Training batches, see :class:`coterie.data.batch.TrainLoader`. In each epoch, every square is shifted by up to half its side, rotated and degraded with new random values.

    Args:
        pictures, squares: images and squares of the training split.
        recipe: the section ``data``.
        order: order of the squares.
        device: device of the batches.
    """

    views, repeats = 1, False

    def __init__(
        self,
        pictures: Sequence[Picture],
        squares: Sequence[Square],
        recipe: RestorationData,
        order: Order,
        device: torch.device,
    ) -> None:
        self.pictures, self.squares, self.recipe, self.order, self.device = pictures, squares, recipe, order, device
        self.ahead = recipe.workers + 1

    def pair(self, epoch: int, number: int) -> Pair:
        """Return the small [3, c / scale, c / scale] and large [3, c, c] image of a square in an epoch."""
        recipe, square = self.recipe, self.squares[number]
        picture = self.pictures[square.picture]
        draws = Draws(derive_seed(self.order.seed, "square", epoch, number))
        crop, scale = recipe.crop, recipe.scale
        top, left = (
            draws.whole(max(0, at - crop // 2) // scale, min(side - crop, at + crop // 2) // scale) * scale
            for at, side in ((square.top, picture.height), (square.left, picture.width))
        )
        way = draws.whole(0, 7) if recipe.flip else 0
        high = turned(picture.cut(top, left, crop, crop), way)
        if picture.low is not None:
            return turned(picture.cut_low(top, left, crop, crop), way).contiguous(), high.contiguous()
        seed = derive_seed(self.order.seed, "degradation", epoch, number)
        return degrade(high, scale, recipe.degradation, seed), high.contiguous()

    def _batch(self, epoch: int, numbers: Tensor) -> Batch:
        low, high = zip(*(self.pair(epoch, number) for number in numbers.tolist()), strict=True)
        return Batch(torch.stack(low), torch.stack(high), numbers)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches from a step on, prefetched some steps ahead."""
        pool = ThreadPoolExecutor(self.recipe.workers, thread_name_prefix="squares")
        waiting: deque[Future[Batch]] = deque()
        try:
            for numbers in self.order.batches(epoch, first_step):
                waiting.append(pool.submit(self._batch, epoch, numbers))
                if len(waiting) > self.ahead:
                    yield on_device(waiting.popleft().result(), self.device)
            while waiting:
                yield on_device(waiting.popleft().result(), self.device)
        finally:
            pool.shutdown(cancel_futures=True)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch to the device, asynchronously from pinned memory for a GPU."""
    pinned = device.type == "cuda"
    inputs, targets, indices = (
        (each.pin_memory() if pinned else each).to(device, non_blocking=True)
        for each in (batch.inputs, batch.targets, batch.indices)
    )
    return Batch(inputs, targets, indices)


class MeasuringLoader:
    """Batches of a split, squares or single whole images, the same in every pass. See :class:`coterie.data.batch.EvaluationLoader`.

    Args:
        pictures: images of the split.
        squares: squares of the split; None: whole images.
        recipe: the section ``data``; its ``validation_seed`` seeds the degradation, so that all runs are evaluated on the same small images.
        split: name of the split.
        device: device of the batches.
        share: rank of this process and number of processes.
        limit: number of squares to evaluate, evenly spaced; None: all.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        squares: Sequence[Square] | None,
        recipe: RestorationData,
        split: str,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
        limit: int | None = None,
    ) -> None:
        if squares is not None and limit is not None and limit < len(squares):
            squares = [squares[number * len(squares) // limit] for number in range(limit)]
        self.pictures, self.squares, self.recipe, self.split = pictures, squares, recipe, split
        self.device, self.share = device, share

    @property
    def num_samples(self) -> int:
        return len(self.pictures if self.squares is None else self.squares)

    def pair(self, number: int) -> Pair:
        """Return the small and large image of a sample; a whole image is cropped to a multiple of ``scale``."""
        recipe, scale = self.recipe, self.recipe.scale
        if self.squares is None:
            picture = self.pictures[number]
            top, left = 0, 0
            height, width = picture.height // scale * scale, picture.width // scale * scale
        else:
            square = self.squares[number]
            picture = self.pictures[square.picture]
            top, left, height, width = (
                square.top // scale * scale,
                square.left // scale * scale,
                recipe.crop,
                recipe.crop,
            )
        high = picture.cut(top, left, height, width)
        if picture.low is not None:
            return picture.cut_low(top, left, height, width), high
        return degrade(high, scale, recipe.degradation, derive_seed(recipe.validation_seed, self.split, number)), high

    def __iter__(self) -> Iterator[Batch]:
        size = 1 if self.squares is None else TOGETHER
        for numbers in evaluation_share(self.num_samples, *self.share).split(size):
            low, high = zip(*(self.pair(max(0, number)) for number in numbers.tolist()), strict=True)
            yield on_device(Batch(torch.stack(low), torch.stack(high), numbers), self.device)


def make_loaders(
    sets: RestorationSets,
    recipe: RestorationData,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    process_index: int = 0,
    num_processes: int = 1,
) -> Loaders:
    """Make the loaders of all splits.

    Args:
        sets: images and squares by split.
        recipe: the section ``data``.
        batch_size: squares per step, over all processes.
        seed: seed of order, squares and degradations in training.
        device: device of the batches.
        process_index, num_processes: rank of this process and number of processes.
    """
    share = (process_index, num_processes)
    order = Order(len(sets.squares["train"]), batch_size, seed, *share)

    def measuring(split: str, limit: int | None = None) -> MeasuringLoader | None:
        if split not in sets.pictures:
            return None
        whole = recipe.evaluation == "whole" and split != "train"
        squares = None if whole else sets.squares[split]
        return MeasuringLoader(sets.pictures[split], squares, recipe, split, device, share, limit)

    on_train = measuring("train", MEASURED)
    assert on_train is not None
    train = SquareLoader(sets.pictures["train"], sets.squares["train"], recipe, order, device)
    info = SetInfo(sets.name, (), skipped=sets.skipped, notes=sets.notes)
    return Loaders(info, train, measuring("validation"), measuring("test"), on_train, describe(sets))
