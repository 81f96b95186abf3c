"""From a recipe to the loaders of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from coterie.data.augmentation import Augmentation, Mixing
from coterie.data.batch import Batch, DataBundle, DataInfo, EvaluationLoader, TrainLoader
from coterie.data.memory import MemoryEvaluationLoader, MemoryTrainLoader, resize
from coterie.data.order import Order
from coterie.data.raw import Arrays, Files, RawData, Samples, Statistics
from coterie.data.sources import from_objects, read_source
from coterie.data.splits import carve, limit
from coterie.data.statistics import measure
from coterie.data.streaming import StreamingEvaluationLoader, StreamingSettings, StreamingTrainLoader, measure_files
from coterie.errors import CoterieError
from coterie.recipe import DataRecipe

__all__ = ["Batch", "DataBundle", "DataInfo", "EvaluationLoader", "TrainLoader", "load_data"]

SMALL = 64  # pixels a side up to which images are kept in memory
LARGE_DEFAULT = 224  # pixels a side of streamed images, unless the recipe or a pretrained network says otherwise


def load_data(
    recipe: DataRecipe,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    process_index: int = 0,
    num_processes: int = 1,
    network_config: Mapping[str, Any] | None = None,
    datasets: tuple[Any, Any, Any] | None = None,
    channels_last: bool = False,
    views: int = 1,
) -> DataBundle:
    """Read, split, and prepare the data of a run.

    Args:
        recipe: which data, and how they are split and augmented.
        batch_size: images a step over all processes.
        seed: of the run: order and augmentation derive from it.
        device: where in-memory data are kept, and where batches arrive.
        process_index, num_processes: this process's place.
        network_config: timm's ``pretrained_cfg`` of a pretrained network, for its statistics and input size.
        datasets: (train, validation, test) in place of ``recipe.name``.
        channels_last: memory format of the batches.
        views: augmented views of each training image.

    Raises:
        CoterieError: data that cannot be read, or too few of them.
    """
    raw = from_objects(datasets) if datasets is not None else read_source(recipe)
    train, validation, test = _split(raw, recipe)
    if len(set(train.labels.tolist())) < 2:
        raise CoterieError(f"{raw.name!r} has one class: expected at least two")
    order = Order(
        len(train),
        min(batch_size, len(train)) if num_processes == 1 else batch_size,
        seed,
        process_index,
        num_processes,
    )
    size = recipe.image_size or (network_config or {}).get("input_size", (None, None, None))[1]
    in_memory = _keep_in_memory(train, recipe)
    # `resize` averages over areas where arrays shrink; an image file is to be prepared in the same way.
    shrinks = isinstance(train, Arrays) and size is not None and size < min(train.images.shape[1:3])
    if in_memory:
        train = _in_memory(train, size)
        validation, test = (None if each is None else _in_memory(each, size) for each in (validation, test))
    statistics = _statistics(raw, train, recipe, network_config)
    classes = len(raw.class_names)
    mixing = Mixing(recipe.mixup, recipe.cutmix)
    flip = raw.flip if recipe.flip is None else recipe.flip
    place = (process_index, num_processes)
    if in_memory:
        assert isinstance(train, Arrays)
        height, width, channels = train.images.shape[1:]
        info = DataInfo(
            raw.name,
            raw.class_names,
            (channels, height, width),
            *statistics,
            interpolation="box" if shrinks else "bilinear",
            skipped=raw.skipped,
        )
        padding = round(height / 8) if recipe.crop_padding is None else recipe.crop_padding
        augmentation = Augmentation(padding, flip, recipe.cutout)

        def evaluation(samples: Samples | None) -> MemoryEvaluationLoader | None:
            if samples is None:
                return None
            assert isinstance(samples, Arrays)
            return MemoryEvaluationLoader(samples, statistics, device, channels_last, *place)

        loader = MemoryTrainLoader(
            train, statistics, order, augmentation, mixing, classes, device, channels_last, views
        )
        own = evaluation(train)
        assert own is not None
        return DataBundle(info, loader, evaluation(validation), evaluation(test), own)
    return _streaming(raw, (train, validation, test), recipe, order, statistics, mixing, flip, size, network_config, device, channels_last, views, place)  # fmt: skip


def _split(raw: RawData, recipe: DataRecipe) -> tuple[Samples, Samples | None, Samples | None]:
    train, validation = raw.train, raw.validation
    if validation is None and recipe.validation > 0:
        train, validation = carve(train, recipe.validation, recipe.validation_seed, "validation")
    if recipe.validation == 0 and raw.validation is None:
        validation = None
    if recipe.train_limit is not None:
        train = limit(train, recipe.train_limit, recipe.validation_seed)
    return train, validation, raw.test


def _keep_in_memory(train: Samples, recipe: DataRecipe) -> bool:
    if isinstance(train, Arrays):
        return True
    if recipe.in_memory is not None:
        return recipe.in_memory
    if recipe.image_size is not None:
        return recipe.image_size <= SMALL
    with Image.open(train.paths[0]) as image:
        return max(image.size) <= SMALL and image.size[0] == image.size[1]


def _in_memory(samples: Samples, size: int | None) -> Arrays:
    if isinstance(samples, Files):
        samples = _decode(samples, size)
    return Arrays(resize(samples.images, size), samples.labels) if size else samples


def _decode(files: Files, size: int | None) -> Arrays:
    """Colour images of files, all of one size; brought to ``size`` as timm's evaluation transform and `predict` do it."""
    fit = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)]) if size is not None else None
    images = []
    for path in files.paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
            images.append(np.asarray(fit(image) if fit is not None else image))
    if len({image.shape for image in images}) > 1:
        raise CoterieError("the images differ in size: set data.image_size, or data.in_memory=false")
    return Arrays(np.stack(images), files.labels)


def _statistics(
    raw: RawData, train: Samples, recipe: DataRecipe, network_config: Mapping[str, Any] | None
) -> Statistics:
    """What pixels are normalised with, see ``data.normalize``."""
    channels = train.images.shape[-1] if isinstance(train, Arrays) else 3
    kind = recipe.normalize
    if kind == "none":
        return (0.0,) * channels, (1.0,) * channels
    if kind == "network" or (kind == "auto" and network_config is not None):
        if network_config is None:
            raise CoterieError("data.normalize=network needs network.pretrained=true")
        mean, std = tuple(network_config["mean"]), tuple(network_config["std"])
        return (mean, std) if channels == 3 else ((sum(mean) / 3,), (sum(std) / 3,))
    if raw.statistics is not None and len(raw.statistics[0]) == channels:
        return raw.statistics
    return measure(train.images) if isinstance(train, Arrays) else measure_files(train)


def _streaming(
    raw: RawData,
    splits: tuple[Samples | None, Samples | None, Samples | None],
    recipe: DataRecipe,
    order: Order,
    statistics: Statistics,
    mixing: Mixing,
    flip: bool,
    size: int | None,
    network_config: Mapping[str, Any] | None,
    device: torch.device,
    channels_last: bool,
    views: int,
    place: tuple[int, int],
) -> DataBundle:
    train, validation, test = splits
    assert isinstance(train, Files)
    config = network_config or {}
    side = size or LARGE_DEFAULT
    info = DataInfo(
        raw.name,
        raw.class_names,
        (3, side, side),
        *statistics,
        interpolation=config.get("interpolation", "bicubic"),
        crop=config.get("crop_pct", 0.875),
        skipped=raw.skipped,
    )
    settings = StreamingSettings(
        info,
        flip,
        recipe.auto_augment,
        recipe.cutout,
        mixing,
        recipe.workers if recipe.workers is not None else os.cpu_count() or 0,
    )

    def evaluation(samples: Samples | None) -> StreamingEvaluationLoader | None:
        if samples is None:
            return None
        assert isinstance(samples, Files)
        return StreamingEvaluationLoader(samples, settings, device, channels_last, order.batch_size, *place)

    loader = StreamingTrainLoader(train, settings, order, device, channels_last, views)
    own = evaluation(train)
    assert own is not None
    return DataBundle(info, loader, evaluation(validation), evaluation(test), own)
