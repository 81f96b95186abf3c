"""Larger images, decoded by worker processes and transformed by timm's transforms."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from coterie.data.augmentation import Mixing, cutout, mix, partners
from coterie.data.batch import Batch, DataInfo
from coterie.data.order import Order, evaluation_share
from coterie.data.raw import Files, Pixels, Statistics
from coterie.data.statistics import measure
from coterie.errors import RunError
from coterie.randomness import derive_seed

MEASURED_FILES = 2_000  # files from which an unknown folder's statistics are measured


@dataclass(frozen=True)
class StreamingSettings:
    """What loaders of one folder share: sizes and statistics, augmentation, worker processes."""

    info: DataInfo
    flip: bool
    auto_augment: str | None
    cutout: int
    mixing: Mixing
    workers: int


def open_image(path: Path) -> Image.Image:
    """A file as an RGB image.

    Raises:
        RunError: the file was readable when training started and is not now.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:
        raise RunError(f"cannot decode {str(path)!r}: {error}") from None


def evaluation_transform(info: DataInfo) -> Any:
    """Timm's evaluation transform: resize, centre crop, normalise; PIL image to float [C, H, W]."""
    from timm.data import create_transform

    return create_transform(
        input_size=info.input_size, is_training=False, mean=info.mean, std=info.std, interpolation=info.interpolation, crop_pct=info.crop
    )  # fmt: skip


def measure_files(files: Files) -> Statistics:
    """Statistics of a folder: of at most 2,000 files, evenly spread, brought to 64 pixels a side."""
    step = max(1, len(files) // MEASURED_FILES)
    pixels = [np.asarray(open_image(path).resize((64, 64), Image.Resampling.BOX)) for path in files.paths[::step]]
    return measure(np.stack(pixels))


@contextlib.contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's generators seeded for one image, and put back: transforms draw from all three."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class _TrainImages(Dataset[Tensor]):
    """Views of one image: item (number, seed, views) to float [views, C, H, W]."""

    def __init__(self, files: Files, settings: StreamingSettings) -> None:
        from timm.data import create_transform

        self.files = files
        info = settings.info
        self.transform = create_transform(
            input_size=info.input_size,
            is_training=True,
            mean=info.mean,
            std=info.std,
            interpolation=info.interpolation,
            hflip=0.5 if settings.flip else 0.0,
            auto_augment=settings.auto_augment,
            color_jitter=0.0,
        )

    def __getitem__(self, item: tuple[int, int, int]) -> Tensor:
        number, seed, views = item
        image = open_image(self.files.paths[number])
        results = []
        for view in range(views):
            with _drawing_from(derive_seed(seed, number, view)):
                results.append(self.transform(image))
        return torch.stack(results)


class _EvaluationImages(Dataset[Tensor]):
    def __init__(self, files: Files, settings: StreamingSettings) -> None:
        self.files = files
        self.transform = evaluation_transform(settings.info)

    def __getitem__(self, number: int) -> Tensor:
        result: Tensor = self.transform(open_image(self.files.paths[number]))
        return result


def _loader(data: Dataset[Tensor], batches: list[list[Any]], workers: int, device: torch.device) -> DataLoader[Tensor]:
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        pin_memory=device.type == "cuda",
        # A worker must not compute with all cores: there are as many workers as cores.
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


class StreamingTrainLoader:
    """Training batches from files, see :class:`coterie.data.batch.TrainLoader`."""

    def __init__(
        self,
        files: Files,
        settings: StreamingSettings,
        order: Order,
        device: torch.device,
        channels_last: bool,
        views: int = 1,
    ) -> None:
        self.files, self.settings, self.order, self.device, self.views = files, settings, order, device, views
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.labels = torch.from_numpy(files.labels)
        self.num_classes = len(settings.info.class_names)
        self.class_counts = torch.bincount(self.labels, minlength=self.num_classes)
        self.data = _TrainImages(files, settings)

    @property
    def num_samples(self) -> int:
        return self.order.num_samples

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on. Mixed images bring a second image to decode each."""
        seed = derive_seed(self.order.seed, "augmentation", epoch)
        indices = list(self.order.batches(epoch, first_step))
        wanted = []
        for batch in indices:
            numbers = torch.cat([batch, partners(batch, seed, self.num_samples)]) if self.settings.mixing else batch
            wanted.append([(number, seed, self.views) for number in numbers.tolist()])
        loader = _loader(self.data, wanted, self.settings.workers, self.device)
        for batch, images in zip(indices, loader, strict=True):
            images = images.to(self.device, non_blocking=True)
            targets = self.labels[batch].to(self.device)
            views = [self._cut(each, batch, seed, view) for view, each in enumerate(images.unbind(1))]
            if self.settings.mixing:
                views, targets = self._mixed(views, targets, batch, seed)
            views = [each.contiguous(memory_format=self.format) for each in views]
            yield Batch(views[0] if self.views == 1 else views, targets, batch)

    def _cut(self, images: Tensor, batch: Tensor, seed: int, view: int) -> Tensor:
        if not self.settings.cutout:
            return images
        numbers = torch.cat([batch, partners(batch, seed, self.num_samples)]) if self.settings.mixing else batch
        return cutout(images, numbers.to(self.device), seed, self.settings.cutout, view)

    def _mixed(self, views: list[Tensor], targets: Tensor, batch: Tensor, seed: int) -> tuple[list[Tensor], Tensor]:
        other_labels = self.labels[partners(batch, seed, self.num_samples)].to(self.device)
        one_hot, other = (F.one_hot(each, self.num_classes).float() for each in (targets, other_labels))
        count = len(batch)
        results = [mix(each[:count], each[count:], one_hot, other, batch, seed, self.settings.mixing) for each in views]
        return [images for images, _ in results], results[0][1]


class StreamingEvaluationLoader:
    """Batches in order, see :class:`coterie.data.batch.EvaluationLoader`."""

    def __init__(
        self,
        files: Files,
        settings: StreamingSettings,
        device: torch.device,
        channels_last: bool,
        batch_size: int,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.files, self.settings, self.device = files, settings, device
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.labels = torch.from_numpy(files.labels)
        self.indices = evaluation_share(len(files), process_index, num_processes).split(batch_size)
        self.data = _EvaluationImages(files, settings)

    @property
    def num_samples(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Batch]:
        wanted = [batch.clamp(min=0).tolist() for batch in self.indices]
        loader = _loader(self.data, wanted, self.settings.workers, self.device)
        for batch, images in zip(self.indices, loader, strict=True):
            inputs = images.to(self.device, non_blocking=True).contiguous(memory_format=self.format)
            yield Batch(inputs, self.labels[batch.clamp(min=0)].to(self.device), batch.to(self.device))

    def raw_images(self, indices: Sequence[int]) -> list[Pixels]:
        """The images as they are cropped for evaluation, uint8 [H, W, C] each."""
        mean, std = (
            torch.tensor(values).view(-1, 1, 1) for values in (self.settings.info.mean, self.settings.info.std)
        )
        results = []
        for index in indices:
            pixels = (self.data[index] * std + mean).clamp(0, 1) * 255
            results.append(pixels.round().to(torch.uint8).permute(1, 2, 0).numpy())
        return results
