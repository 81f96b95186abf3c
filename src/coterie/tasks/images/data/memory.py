"""Loaders for small images, which are kept on the device as bytes and augmented there in batches, without workers or decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision import transforms

from coterie.data.arrays import Pixels
from coterie.data.batch import Batch
from coterie.data.order import InOrder, Order, evaluation_share
from coterie.randomness import derive_seed
from coterie.tasks.images.data.augmentation import Augmentation, Mixing, crop_and_flip, cutout, mix, partners
from coterie.tasks.images.data.raw import Arrays, Statistics, four_axes

# Batch size of evaluation for images of up to 32 pixels per side; for larger ones, the same number of pixels. On a GPU, evaluation is
# dominated by kernel launches, hence large batches; on a CPU, small batches stay in its caches.
EVALUATION_BATCH = {"cuda": 2000}
OTHER_EVALUATION_BATCH = 500


def fit_square(images: Pixels, side: int) -> Pixels:
    """Resize images uint8 [N, H, W, C] to a square as `predict` does for files: bilinear resize of the shorter side, then centre crop."""
    fit = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])
    if images.shape[-1] in {1, 3}:  # with Pillow, to have the same rounding as `predict`
        fitted = [
            np.asarray(fit(Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each))) for each in images
        ]
        return four_axes(np.stack(fitted))
    parts = [fit(torch.from_numpy(each).permute(2, 0, 1)).permute(1, 2, 0).numpy() for each in images]
    return np.stack(parts)


def shrink(images: Pixels, side: int) -> Pixels:
    """Shrink square images uint8 [N, H, H, C] by an integer factor, by area averaging."""
    parts = []
    for start in range(0, len(images), 4096):  # in parts: floats of the whole set would take four times its memory
        part = torch.from_numpy(images[start : start + 4096]).permute(0, 3, 1, 2).float()
        part = F.interpolate(part, (side, side), mode="area")
        parts.append(part.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


class DeviceImages:
    """A split's pixels and labels on the device, and the preprocessing of batches.

    Args:
        samples: the samples to copy to the device.
        statistics: mean and standard deviation of pixels in 0..1.
        side: side to which batches are enlarged bilinearly; None: not enlarged. The stored pixels are not enlarged.
        device: device of the stored pixels.
        channels_last: memory format of the inputs.
    """

    def __init__(
        self, samples: Arrays, statistics: Statistics, side: int | None, device: torch.device, channels_last: bool
    ) -> None:
        # Indexing a batch is fastest if each image is contiguous.
        self.pixels = torch.from_numpy(np.ascontiguousarray(samples.images.transpose(0, 3, 1, 2))).to(device)
        self.labels = torch.from_numpy(np.ascontiguousarray(samples.labels)).to(device)
        mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in statistics)
        self.scale, self.shift = 1 / (255 * std), -mean / std
        self.side = side
        self.use_channels_last(channels_last)

    def use_channels_last(self, channels_last: bool) -> None:
        """Set the memory format of batches."""
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, pixels: Tensor) -> Tensor:
        """Normalises and enlarges a batch: uint8 [B, C, H, W] to float32 [B, C, side, side]."""
        batch = (pixels.float() * self.scale + self.shift).contiguous(memory_format=self.format)
        return F.interpolate(batch, (self.side, self.side), mode="bilinear") if self.side is not None else batch


class MemoryTrainLoader(InOrder):
    """Training batches from pixels on the device, see :class:`coterie.data.batch.TrainLoader`."""

    def __init__(
        self,
        images: DeviceImages,
        order: Order,
        augmentation: Augmentation,
        mixing: Mixing,
        num_classes: int,
        views: int = 1,
    ) -> None:
        self.images = images
        self.order = order
        self.augmentation = augmentation
        self.mixing = mixing
        self.num_classes = num_classes
        self.views = views
        self.ahead = 0
        self.repeats = augmentation == Augmentation() and not mixing
        self.class_counts = torch.bincount(images.labels.cpu(), minlength=num_classes)

    def use_channels_last(self, channels_last: bool) -> None:
        """Set the memory format of batches."""
        self.images.use_channels_last(channels_last)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch, starting at a step; they do not depend on earlier draws."""
        seed = derive_seed(self.order.seed, "augmentation", epoch)
        for indices in self.order.batches(epoch, first_step):
            numbers = indices.to(self.images.labels.device, non_blocking=True)
            targets = self.images.labels[numbers]
            views = [self._view(numbers, numbers, seed, view) for view in range(self.views)]
            if self.mixing:
                views, targets = self._mixed(views, targets, indices, numbers, seed)
            yield Batch(views[0] if self.views == 1 else views, targets, indices)

    def _view(self, images: Tensor, samples: Tensor, seed: int, view: int) -> Tensor:
        """Returns the images with the given indices, augmented with the draws of ``samples``."""
        # index_select is twenty times as fast as [] on a CPU.
        pixels = crop_and_flip(self.images.pixels.index_select(0, images), samples, seed, self.augmentation, view)
        batch = self.images.inputs(pixels)
        return cutout(batch, samples, seed, self.augmentation.cutout, view) if self.augmentation.cutout else batch

    def _mixed(
        self, views: list[Tensor], targets: Tensor, indices: Tensor, numbers: Tensor, seed: int
    ) -> tuple[list[Tensor], Tensor]:
        """Mixes every view with the same view of the partner; all views have the same mixed targets."""
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

    def __init__(self, images: DeviceImages, process_index: int = 0, num_processes: int = 1) -> None:
        self.images = images
        self.indices = evaluation_share(len(images), process_index, num_processes)

    def use_channels_last(self, channels_last: bool) -> None:
        """Set the memory format of batches."""
        self.images.use_channels_last(channels_last)

    @property
    def num_samples(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Batch]:
        device = self.images.labels.device
        side = self.images.side or max(self.images.pixels.shape[2:])
        batch = EVALUATION_BATCH.get(device.type, OTHER_EVALUATION_BATCH) * 32**2 // max(32, side) ** 2
        for share in self.indices.split(max(1, batch)):
            indices = share.to(device)
            numbers = indices.clamp(min=0)
            inputs = self.images.inputs(self.images.pixels.index_select(0, numbers))
            yield Batch(inputs, self.images.labels[numbers], indices)

    def prepared(self, indices: Sequence[int]) -> Tensor:
        """See :class:`coterie.tasks.images.data.batch.ImageLoader`."""
        numbers = torch.as_tensor(indices, dtype=torch.int64, device=self.images.pixels.device)
        return self.images.inputs(self.images.pixels.index_select(0, numbers))

    def raw_images(self, indices: Sequence[int]) -> Pixels:
        """Returns the pixels before normalisation, uint8 [n, H, W, C]."""
        numbers = torch.as_tensor(indices, dtype=torch.int64, device=self.images.pixels.device)
        pixels: Pixels = self.images.pixels.index_select(0, numbers).permute(0, 2, 3, 1).cpu().numpy()
        return pixels
