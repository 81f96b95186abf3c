"""Builds the loaders of a run from its recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torchvision import transforms

from coterie.data.batch import Batch, EvaluationLoader, TrainLoader
from coterie.data.fingerprint import fingerprint
from coterie.data.order import Order
from coterie.errors import CoterieError
from coterie.recipe.sections import AUTO
from coterie.tasks.images.data.augmentation import Augmentation, Mixing
from coterie.tasks.images.data.batch import DataBundle, DataInfo
from coterie.tasks.images.data.fingerprint import sample_digests
from coterie.tasks.images.data.memory import DeviceImages, MemoryEvaluationLoader, MemoryTrainLoader, fit_square, shrink
from coterie.tasks.images.data.raw import (
    Arrays,
    Files,
    RawData,
    Samples,
    Statistics,
    four_axes,
    to_image,
)
from coterie.tasks.images.data.reading import asked_size, is_kept_in_memory, read_data, reads_differently, small_side
from coterie.tasks.images.data.statistics import measure, measure_streamed
from coterie.tasks.images.data.streaming import StreamingEvaluationLoader, StreamingSettings, StreamingTrainLoader
from coterie.tasks.images.settings import ImageData

__all__ = [
    "Batch",
    "DataBundle",
    "DataInfo",
    "EvaluationLoader",
    "TrainLoader",
    "load_data",
    "prepare_data",
]

LARGE_DEFAULT = 224  # side in pixels of streamed images, unless the recipe or a pretrained network sets it


@dataclass(frozen=True)
class _Target:
    """Device and memory format of batches, and the index of this process."""

    device: torch.device
    channels_last: bool
    process_index: int
    num_processes: int


def prepare_data(
    raw: RawData,
    recipe: ImageData,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    process_index: int = 0,
    num_processes: int = 1,
    network_config: Mapping[str, Any] | None = None,
    channels_last: bool = False,
    views: int = 1,
) -> DataBundle:
    """Builds loaders from data that were read.

    Args:
        raw: from :func:`read_data`.
        recipe: settings of preprocessing and augmentation.
        batch_size: images in a step over all processes.
        seed: seed of the run, from which order and augmentation derive.
        device: where in-memory data are kept, and the device of the batches.
        process_index, num_processes: index of this process, and number of processes.
        network_config: timm's ``pretrained_cfg`` of a pretrained network, for its statistics and input size.
        channels_last: memory format of the batches.
        views: number of augmented views of each training image.

    Raises:
        CoterieError: a setting does not fit the images.
    """
    kept = is_kept_in_memory(raw, recipe)
    shards = raw.train.stored.shards if isinstance(raw.train, Files) and not kept else None
    order = Order(
        len(raw.train),
        batch_size,
        seed,
        process_index,
        num_processes,
        shards=shards,
    )
    size = asked_size(recipe) or (network_config or {}).get("input_size", (None, None, None))[1]
    target = _Target(device, channels_last, process_index, num_processes)
    varies = reads_differently(raw)
    if varies and recipe.in_memory:
        raise CoterieError(
            "data.in_memory=true: the data set's samples read differently each time, by a random transform, and cannot be kept; leave it out"
        )
    if kept:
        bundle = _in_memory(raw, recipe, order, size, network_config, target, views)
    else:
        side = size or (small_side(raw.train) if varies else None) or LARGE_DEFAULT
        bundle = _streaming(raw, recipe, order, side, network_config, target, views)
    preparation = {"flip": raw.flip, "statistics": raw.statistics}
    return replace(bundle, fingerprint=fingerprint(raw.class_names, raw.splits(), preparation, sample_digests))


def load_data(
    recipe: ImageData, *, datasets: Any = None, measured: Sequence[str] | None = None, **preparation: Any
) -> DataBundle:
    """Read, split and prepare the data of a run, see :func:`read_data` and :func:`prepare_data`."""
    return prepare_data(read_data(recipe, datasets, measured), recipe, **preparation)


def _found(raw: RawData) -> dict[str, Any]:
    """Returns the counts and notes about the data that the run records."""
    return {
        "skipped": raw.skipped,
        "passed_over": raw.passed_over,
        "duplicates": dict(raw.duplicates),
        "notes": raw.notes,
    }


def _in_memory(
    raw: RawData,
    recipe: ImageData,
    order: Order,
    size: int | None,
    network_config: Mapping[str, Any] | None,
    target: _Target,
    views: int,
) -> DataBundle:
    for key in ("auto_augment", "crop_scale"):
        if getattr(recipe, key) not in {None, AUTO}:
            raise CoterieError(f"data.{key} is for images that are streamed: set data.in_memory=false")
    arrays = {split: _as_arrays(samples, size) for split, samples in raw.splits().items()}
    height, width = arrays["train"].images.shape[1:3]
    several = len({samples.images.shape[1:3] for samples in arrays.values()}) > 1
    # Images that are not square, or that do not shrink by an integer factor, are resized as in `predict`. Others are shrunk by area
    # averaging below, or enlarged per batch on the device, so that few pixels are kept.
    if size is not None and (several or height != width or (size < height and height % size)):
        arrays = {split: Arrays(fit_square(samples.images, size), samples.labels) for split, samples in arrays.items()}
        height = width = size
    for split, samples in arrays.items():
        if samples.images.shape[1:3] != (height, width):
            raise CoterieError(
                f"{raw.name!r}: {split} images are {samples.images.shape[1:3]}, training images {height, width}"
            )
    shrinks = size is not None and size < height
    enlarged = size if size is not None and size > height else None
    if shrinks and size is not None:
        arrays = {split: Arrays(shrink(samples.images, size), samples.labels) for split, samples in arrays.items()}
        height = width = size
    train = arrays["train"]
    padding = round(height / 8) if recipe.crop_padding is None else recipe.crop_padding
    if padding >= min(height, width):
        raise CoterieError(f"data.crop_padding={padding} must be below the images' side, {min(height, width)}")
    statistics = _statistics(raw, recipe, network_config)
    if statistics is None:
        statistics = measure(train.images)
    info = DataInfo(
        raw.name,
        raw.class_names,
        (train.channels, enlarged or height, enlarged or width),
        *statistics,
        interpolation="box" if shrinks else "bilinear",
        **_found(raw),
    )
    _require_smaller_cutout(recipe, info)
    images = {
        split: DeviceImages(samples, statistics, enlarged, target.device, target.channels_last)
        for split, samples in arrays.items()
    }
    loader = MemoryTrainLoader(
        images["train"],
        order,
        Augmentation(padding, raw.flip if recipe.flip is None else recipe.flip, recipe.cutout),
        Mixing(recipe.mixup, recipe.cutmix),
        len(raw.class_names),
        views,
    )
    evaluation = {
        split: MemoryEvaluationLoader(each, target.process_index, target.num_processes)
        for split, each in images.items()
    }
    return DataBundle(info, loader, evaluation.get("validation"), evaluation.get("test"), evaluation["train"])


def _as_arrays(samples: Samples, size: int | None) -> Arrays:
    """Loads all images into memory: unchanged if they have the same size, otherwise resized to ``size`` as in `predict`."""
    if isinstance(samples, Arrays):
        return samples
    # Files are decoded by threads; custom data sets may not be thread-safe.
    with ThreadPoolExecutor(os.cpu_count() if isinstance(samples, Files) else 1) as pool:
        images = list(pool.map(lambda number: to_image(samples, number), range(len(samples))))
    if len({image.size for image in images}) > 1:
        if size is None:
            raise CoterieError("the images differ in size: set data.image_size, or data.in_memory=false")
        fit = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])
        images = [fit(image) for image in images]
    return Arrays(four_axes(np.stack([np.asarray(image) for image in images])), samples.labels)


def _statistics(raw: RawData, recipe: ImageData, network_config: Mapping[str, Any] | None) -> Statistics | None:
    """Returns the statistics for normalisation, see ``data.normalize``; None: measure them on the training images."""
    channels = raw.train.channels
    if recipe.normalize == "none":
        return (0.0,) * channels, (1.0,) * channels
    if recipe.normalize == "network" or (recipe.normalize == "auto" and network_config is not None):
        if network_config is None:
            raise CoterieError("data.normalize=network needs network.pretrained=true")
        mean, std = tuple(network_config["mean"]), tuple(network_config["std"])
        # For other than three channels, timm sums the weights of a pretrained stem over its channels, hence the mean of the statistics.
        return (mean, std) if channels == len(mean) else ((sum(mean) / 3,) * channels, (sum(std) / 3,) * channels)
    return raw.statistics


def _require_smaller_cutout(recipe: ImageData, info: DataInfo) -> None:
    side = min(info.input_size[1:])
    if recipe.cutout >= side:
        raise CoterieError(f"data.cutout={recipe.cutout} must be below the images' side, {side}")


def _streaming(
    raw: RawData,
    recipe: ImageData,
    order: Order,
    size: int,
    network_config: Mapping[str, Any] | None,
    target: _Target,
    views: int,
) -> DataBundle:
    if recipe.crop_padding is not None:
        raise CoterieError("data.crop_padding is for small images in memory: set data.in_memory=true")
    if raw.train.channels not in {1, 3}:
        raise CoterieError(f"images of {raw.train.channels} channels cannot be streamed: set data.in_memory=true")
    config = network_config or {}
    statistics = _statistics(raw, recipe, network_config)
    if statistics is None:
        statistics = measure_streamed(raw.train, size)
    info = DataInfo(
        raw.name,
        raw.class_names,
        (raw.train.channels, size, size),
        *statistics,
        interpolation=config.get("interpolation", "bicubic"),
        crop=config.get("crop_pct", 0.875),
        **_found(raw),
    )
    _require_smaller_cutout(recipe, info)
    cores = max(1, (os.cpu_count() or 1) // target.num_processes)
    settings = StreamingSettings(
        info,
        raw.flip if recipe.flip is None else recipe.flip,
        recipe.crop_scale if isinstance(recipe.crop_scale, float) else None,
        recipe.auto_augment,
        recipe.cutout,
        Mixing(recipe.mixup, recipe.cutmix),
        target.device,
        target.channels_last,
        cores if recipe.workers is None else recipe.workers,
    )
    loader = StreamingTrainLoader(raw.train, settings, order, views)
    evaluation = {
        split: StreamingEvaluationLoader(
            samples, settings, order.batch_size, target.process_index, target.num_processes
        )
        for split, samples in raw.splits().items()
    }
    return DataBundle(info, loader, evaluation.get("validation"), evaluation.get("test"), evaluation["train"])
