"""Small images, kept on the device as bytes and augmented there in batches: no workers, no decoding."""

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

# Images of up to 32 pixels a side that are evaluated at once, and as many pixels of larger ones. Launching kernels is what evaluation
# on a GPU costs, hence fewer and larger batches there; on a CPU small ones stay in its caches.
EVALUATION_BATCH = {"cuda": 2000}
OTHER_EVALUATION_BATCH = 500


def fit_square(images: Pixels, side: int) -> Pixels:
    """Bring images uint8 [N, H, W, C] to a square as `predict` brings files to it: shorter side resized bilinearly, centre cut out."""
    fit = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])
    if images.shape[-1] in {1, 3}:  # by Pillow, whose rounding `predict` has
        fitted = [
            np.asarray(fit(Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each))) for each in images
        ]
        return four_axes(np.stack(fitted))
    parts = [fit(torch.from_numpy(each).permute(2, 0, 1)).permute(1, 2, 0).numpy() for each in images]
    return np.stack(parts)


def shrink(images: Pixels, side: int) -> Pixels:
    """Bring square images uint8 [N, H, H, C] to a side of which theirs is a multiple, by averaging over areas."""
    parts = []
    for start in range(0, len(images), 4096):  # floats of the whole set would need four times its memory
        part = torch.from_numpy(images[start : start + 4096]).permute(0, 3, 1, 2).float()
        part = F.interpolate(part, (side, side), mode="area")
        parts.append(part.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


class DeviceImages:
    """A split's pixels and labels on the device, and how batches of them become inputs.

    Args:
        samples: what is copied to the device.
        statistics: mean and standard deviation of pixels in 0..1.
        side: to which batches are enlarged, bilinearly; None: as they are. The pixels that are kept stay small.
        device: where they are kept.
        channels_last: memory format of the inputs.
    """

    def __init__(
        self, samples: Arrays, statistics: Statistics, side: int | None, device: torch.device, channels_last: bool
    ) -> None:
        # torch indexes a batch fastest where each image is one run of bytes.
        self.pixels = torch.from_numpy(np.ascontiguousarray(samples.images.transpose(0, 3, 1, 2))).to(device)
        self.labels = torch.from_numpy(np.ascontiguousarray(samples.labels)).to(device)
        mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in statistics)
        self.scale, self.shift = 1 / (255 * std), -mean / std
        self.side = side
        self.use_channels_last(channels_last)

    def use_channels_last(self, channels_last: bool) -> None:
        """Give batches in that memory format from now on."""
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, pixels: Tensor) -> Tensor:
        """Normalised float32 [B, C, side, side] of uint8 [B, C, H, W]."""
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
        """Give batches in that memory format from now on."""
        self.images.use_channels_last(channels_last)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on: the same whatever was drawn before."""
        seed = derive_seed(self.order.seed, "augmentation", epoch)
        for indices in self.order.batches(epoch, first_step):
            numbers = indices.to(self.images.labels.device, non_blocking=True)
            targets = self.images.labels[numbers]
            views = [self._view(numbers, numbers, seed, view) for view in range(self.views)]
            if self.mixing:
                views, targets = self._mixed(views, targets, indices, numbers, seed)
            yield Batch(views[0] if self.views == 1 else views, targets, indices)

    def _view(self, images: Tensor, samples: Tensor, seed: int, view: int) -> Tensor:
        """Images of the given numbers, augmented by the draws of ``samples``."""
        # index_select, not []: twenty times as fast on a CPU.
        pixels = crop_and_flip(self.images.pixels.index_select(0, images), samples, seed, self.augmentation, view)
        batch = self.images.inputs(pixels)
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

    def __init__(self, images: DeviceImages, process_index: int = 0, num_processes: int = 1) -> None:
        self.images = images
        self.indices = evaluation_share(len(images), process_index, num_processes)

    def use_channels_last(self, channels_last: bool) -> None:
        """Give batches in that memory format from now on."""
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
        """See :class:`coterie.data.batch.ImageLoader`."""
        numbers = torch.as_tensor(indices, dtype=torch.int64, device=self.images.pixels.device)
        return self.images.inputs(self.images.pixels.index_select(0, numbers))

    def raw_images(self, indices: Sequence[int]) -> Pixels:
        """The pixels before normalisation, uint8 [n, H, W, C]."""
        numbers = torch.as_tensor(indices, dtype=torch.int64, device=self.images.pixels.device)
        pixels: Pixels = self.images.pixels.index_select(0, numbers).permute(0, 2, 3, 1).cpu().numpy()
        return pixels
