"""Small images, kept on the device as bytes and augmented there in batches: no workers, no decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.data.augmentation import Augmentation, Mixing, crop_and_flip, cutout, mix, partners
from coterie.data.batch import Batch
from coterie.data.order import Order, evaluation_share
from coterie.data.raw import Arrays, Pixels, Statistics
from coterie.randomness import derive_seed

EVALUATION_BATCH = 500


def resize(images: Pixels, size: int) -> Pixels:
    """Bring images uint8 [N, H, W, C] to a square: by averaging over areas when they shrink, bilinear when they grow."""
    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images
    parts = []
    for start in range(0, len(images), 4096):
        part = torch.from_numpy(images[start : start + 4096]).permute(0, 3, 1, 2).float()
        shrinks = size <= height and size <= width
        part = (
            F.interpolate(part, (size, size), mode="area")
            if shrinks
            else F.interpolate(part, (size, size), mode="bilinear", antialias=True)
        )
        parts.append(part.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


class _Images:
    """Pixels on the device, and their normalisation."""

    def __init__(self, samples: Arrays, statistics: Statistics, device: torch.device, channels_last: bool) -> None:
        # torch indexes a batch fastest where each image is one run of bytes.
        self.pixels = torch.from_numpy(np.ascontiguousarray(samples.images.transpose(0, 3, 1, 2))).to(device)
        self.labels = torch.from_numpy(np.ascontiguousarray(samples.labels)).to(device)
        mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in statistics)
        self.scale, self.shift = 1 / (255 * std), -mean / std
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def normalised(self, pixels: Tensor) -> Tensor:
        return (pixels.float() * self.scale + self.shift).contiguous(memory_format=self.format)


class MemoryTrainLoader:
    """Training batches from pixels on the device, see :class:`coterie.data.batch.TrainLoader`."""

    def __init__(
        self,
        samples: Arrays,
        statistics: Statistics,
        order: Order,
        augmentation: Augmentation,
        mixing: Mixing,
        num_classes: int,
        device: torch.device,
        channels_last: bool,
        views: int = 1,
    ) -> None:
        self.images = _Images(samples, statistics, device, channels_last)
        self.order = order
        self.augmentation = augmentation
        self.mixing = mixing
        self.num_classes = num_classes
        self.device = device
        self.views = views
        self.class_counts = torch.bincount(torch.from_numpy(samples.labels), minlength=num_classes)

    @property
    def num_samples(self) -> int:
        return self.order.num_samples

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on: the same whatever was drawn before."""
        seed = derive_seed(self.order.seed, "augmentation", epoch)
        for indices in self.order.batches(epoch, first_step):
            numbers = indices.to(self.device, non_blocking=True)
            targets = self.images.labels[numbers]
            views = [self._view(numbers, numbers, seed, view) for view in range(self.views)]
            if self.mixing:
                views, targets = self._mixed(views, targets, indices, numbers, seed)
            yield Batch(views[0] if self.views == 1 else views, targets, indices)

    def _view(self, images: Tensor, samples: Tensor, seed: int, view: int) -> Tensor:
        """Images of the given numbers, augmented by the draws of ``samples``."""
        pixels = crop_and_flip(self.images.pixels[images], samples, seed, self.augmentation, view)
        batch = self.images.normalised(pixels)
        return cutout(batch, samples, seed, self.augmentation.cutout, view) if self.augmentation.cutout else batch

    def _mixed(
        self, views: list[Tensor], targets: Tensor, indices: Tensor, numbers: Tensor, seed: int
    ) -> tuple[list[Tensor], Tensor]:
        """Every view mixed with the partner's same view; one mixture of targets for all views."""
        partner = partners(numbers, seed, self.num_samples)
        one_hot = F.one_hot(targets, self.num_classes).float()
        other = F.one_hot(self.images.labels[partner], self.num_classes).float()
        results = [
            mix(each, self._view(partner, partner, seed, view), one_hot, other, indices, seed, self.mixing)
            for view, each in enumerate(views)
        ]
        return [images for images, _ in results], results[0][1]


class MemoryEvaluationLoader:
    """Batches in order, see :class:`coterie.data.batch.EvaluationLoader`."""

    def __init__(
        self,
        samples: Arrays,
        statistics: Statistics,
        device: torch.device,
        channels_last: bool,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.samples = samples
        self.images = _Images(samples, statistics, device, channels_last)
        self.indices = evaluation_share(len(samples), process_index, num_processes)
        self.device = device

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Batch]:
        for indices in self.indices.split(EVALUATION_BATCH):
            numbers = indices.clamp(min=0).to(self.device)
            inputs = self.images.normalised(self.images.pixels[numbers])
            yield Batch(inputs, self.images.labels[numbers], indices.to(self.device))

    def raw_images(self, indices: Sequence[int]) -> list[Pixels]:
        """The pixels that the network sees, uint8 [H, W, C] each."""
        return [self.samples.images[index] for index in indices]
