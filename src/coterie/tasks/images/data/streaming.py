"""Loaders for larger images, which are decoded by worker processes and transformed by timm's transforms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from coterie.data.arrays import Pixels
from coterie.data.batch import Batch
from coterie.data.order import InOrder, Order, evaluation_share
from coterie.errors import CoterieError, RunError
from coterie.randomness import derive_seed, drawing_from
from coterie.tasks.images.data.augmentation import Mixing, cutout, mix, partners
from coterie.tasks.images.data.batch import DataInfo
from coterie.tasks.images.data.raw import Files, Objects, Samples, to_image

AHEAD = 2  # batches that each worker prepares in advance


@dataclass(frozen=True)
class StreamingSettings:
    """Settings shared by the loaders of a data set: sizes and statistics, augmentation, device and format of batches, worker processes."""

    info: DataInfo
    flip: bool
    crop_scale: float | None
    auto_augment: str | None
    cutout: int
    mixing: Mixing
    device: torch.device
    channels_last: bool
    workers: int

    @property
    def format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def train_transform(settings: StreamingSettings) -> Any:
    """Builds timm's training transform: random resized crop, flip, ``auto_augment``, normalise; PIL image to float [C, H, W].

    Raises:
        CoterieError: timm does not know the policy.
    """
    from timm.data import create_transform

    info = settings.info
    try:
        return create_transform(
            input_size=info.input_size,
            is_training=True,
            mean=info.mean,
            std=info.std,
            interpolation=info.interpolation,
            scale=None if settings.crop_scale is None else (settings.crop_scale, 1.0),
            hflip=0.5 if settings.flip else 0.0,
            auto_augment=settings.auto_augment,
            color_jitter=None,  # disabled; 0.0 would still draw random numbers
        )
    except Exception as error:  # timm's parser raises many types
        if settings.auto_augment is None:
            raise
        reason = f"{type(error).__name__}: {error}" if str(error) else "timm does not know it"
        raise CoterieError(
            f"data.auto_augment={settings.auto_augment!r}: {reason}; expected a policy such as rand-m9-mstd0.5"
        ) from None


def evaluation_transform(info: DataInfo) -> Any:
    """Builds timm's evaluation transform: resize, centre crop, normalise; PIL image to float [C, H, W]."""
    from timm.data import create_transform

    return create_transform(
        input_size=info.input_size,
        is_training=False,
        mean=info.mean,
        std=info.std,
        interpolation=info.interpolation,
        crop_pct=info.crop,
    )


class _TrainImages(Dataset["Tensor | RunError"]):
    """Augmented views of images: item (index, seed, number of views) to float [views, C, H, W]."""

    def __init__(self, samples: Samples, settings: StreamingSettings) -> None:
        self.samples = samples.unlabelled() if isinstance(samples, Files) else samples
        self.transform = train_transform(settings)

    def __getitem__(self, item: tuple[int, int, int]) -> Tensor | RunError:
        number, seed, views = item
        again = isinstance(self.samples, Objects)  # may have random transforms, so each view reads the image again
        results = []
        try:
            image = None if again else to_image(self.samples, number)
            for view in range(views):
                with drawing_from(derive_seed(seed, number, view)):
                    results.append(self.transform(to_image(self.samples, number) if image is None else image))
        except RunError as error:
            return error
        return torch.stack(results)


class _EvaluationImages(Dataset["Tensor | RunError"]):
    """Images preprocessed for evaluation: index to float [C, H, W]."""

    def __init__(self, samples: Samples, settings: StreamingSettings) -> None:
        self.samples = samples.unlabelled() if isinstance(samples, Files) else samples
        self.transform = evaluation_transform(settings.info)

    def __getitem__(self, number: int) -> Tensor | RunError:
        try:
            with drawing_from(derive_seed(0, "evaluation", number)):
                result: Tensor = self.transform(to_image(self.samples, number))
        except RunError as error:
            return error
        return result


def _stack(items: list[Tensor | RunError]) -> Tensor | RunError:
    """Stacks a batch, or returns the first error in it.

    Errors are returned as values: a DataLoader wraps an error raised in a worker in its traceback, and the other workers then take
    ten seconds to end.
    """
    tensors = []
    for item in items:
        if isinstance(item, RunError):
            return item
        tensors.append(item)
    return torch.stack(tensors)


def _stream(
    data: Dataset[Tensor | RunError], batches: Iterable[list[Any]], count: int, settings: StreamingSettings
) -> Iterator[Tensor]:
    """Yields the stacked items of each of ``count`` batches, in order, on the device. ``batches`` is consumed lazily to save memory.

    Raises:
        RunError: an image cannot be decoded; the message names it.
    """
    loader = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=min(settings.workers, count),
        collate_fn=_stack,
        pin_memory=settings.device.type == "cuda",
        # One thread per worker, because there are as many workers as cores.
        worker_init_fn=_one_thread,
        prefetch_factor=AHEAD if settings.workers else None,
        # Without it, a DataLoader draws from the global generator.
        generator=torch.Generator(),
    )
    failure = None
    for images in loader:
        if isinstance(images, RunError):
            failure = images
            break
        yield images.to(settings.device, non_blocking=True)
    if failure is not None:
        raise failure


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


class StreamingTrainLoader(InOrder):
    """Training batches from files or objects, see :class:`coterie.data.batch.TrainLoader`."""

    def __init__(self, samples: Samples, settings: StreamingSettings, order: Order, views: int = 1) -> None:
        self.settings, self.order, self.views = settings, order, views
        self.repeats = False  # crops are always random
        self.ahead = AHEAD * settings.workers
        self.labels = torch.from_numpy(samples.labels)
        self.num_classes = len(settings.info.class_names)
        self.class_counts = torch.bincount(self.labels, minlength=self.num_classes)
        self.data = _TrainImages(samples, settings)

    def use_channels_last(self, channels_last: bool) -> None:
        """Set the memory format of batches."""
        self.settings = replace(self.settings, channels_last=channels_last)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch, starting at a step. Mixing decodes a second image for each sample."""
        seed = derive_seed(self.order.seed, "augmentation", epoch)
        batches = list(self.order.batches(epoch, first_step))
        # With mixing, the partners are appended to the batch.
        wanted = [torch.cat([b, partners(b, seed, self.num_samples)]) if self.settings.mixing else b for b in batches]
        items = ([(number, seed, self.views) for number in numbers.tolist()] for numbers in wanted)
        stream = _stream(self.data, items, len(wanted), self.settings)
        for batch, numbers, images in zip(batches, wanted, stream, strict=True):
            views = list(images.unbind(1))
            if self.settings.cutout:
                draws = numbers.to(self.settings.device, non_blocking=True)
                views = [cutout(each, draws, seed, self.settings.cutout, view) for view, each in enumerate(views)]
            targets = self.labels[batch].to(self.settings.device, non_blocking=True)
            if self.settings.mixing:
                views, targets = self._mixed(views, numbers, seed)
            views = [each.contiguous(memory_format=self.settings.format) for each in views]
            yield Batch(views[0] if self.views == 1 else views, targets, batch)

    def _mixed(self, views: list[Tensor], numbers: Tensor, seed: int) -> tuple[list[Tensor], Tensor]:
        """Mixes every view with the same view of the partner; all views have the same mixed targets."""
        count = len(numbers) // 2
        targets = F.one_hot(self.labels[numbers], self.num_classes).float()
        targets = targets.to(self.settings.device, non_blocking=True)
        results = [
            mix(
                each[:count],
                each[count:],
                targets[:count],
                targets[count:],
                numbers[:count],
                seed,
                self.settings.mixing,
            )
            for each in views
        ]
        return [images for images, _ in results], results[0][1]


class StreamingEvaluationLoader:
    """Batches in order, see :class:`coterie.data.batch.EvaluationLoader`."""

    def __init__(
        self,
        samples: Samples,
        settings: StreamingSettings,
        batch_size: int,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.settings = settings
        self.labels = torch.from_numpy(samples.labels)
        self.indices = evaluation_share(len(samples), process_index, num_processes).split(batch_size)
        self.data = _EvaluationImages(samples, settings)

    def use_channels_last(self, channels_last: bool) -> None:
        """Set the memory format of batches."""
        self.settings = replace(self.settings, channels_last=channels_last)

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Batch]:
        wanted = (batch.clamp(min=0).tolist() for batch in self.indices)
        stream = _stream(self.data, wanted, len(self.indices), self.settings)
        for batch, images in zip(self.indices, stream, strict=True):
            inputs = images.contiguous(memory_format=self.settings.format)
            targets = self.labels[batch.clamp(min=0)].to(self.settings.device)
            yield Batch(inputs, targets, batch.to(self.settings.device))

    def prepared(self, indices: Sequence[int]) -> Tensor:
        """See :class:`coterie.tasks.images.data.batch.ImageLoader`."""
        return self._decoded(indices).to(self.settings.device).contiguous(memory_format=self.settings.format)

    def _decoded(self, indices: Sequence[int]) -> Tensor:
        batch = _stack([self.data[index] for index in indices])
        if isinstance(batch, RunError):
            raise batch
        return batch

    def raw_images(self, indices: Sequence[int]) -> Pixels:
        """Returns the images resized and cropped as for evaluation, uint8 [n, H, W, C]."""
        info = self.settings.info
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (info.mean, info.std))
        batch = self._decoded(indices)
        pixels: Pixels = ((batch * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return pixels
