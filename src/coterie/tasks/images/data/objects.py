"""Data sets passed as objects: pairs of arrays, any sequence of (image, label), and data sets of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coterie.data.arrays import Labels, as_array
from coterie.data.objects import EXPECTED, is_dataset, is_pair, to_datasets
from coterie.data.records import load_hub
from coterie.data.splits import assign_held_out, carve_test
from coterie.errors import CoterieError
from coterie.recipe.sections import OWN_DATA
from coterie.tasks.images.data.parquet_index import IMAGE_COLUMNS, LABEL_COLUMNS
from coterie.tasks.images.data.raw import Arrays, Objects, RawData, Samples, four_axes, numbered, to_pixels
from coterie.tasks.images.settings import ImageData


def from_objects(datasets: Any, recipe: ImageData | None = None) -> RawData:
    """Reads (train, validation, test), with None for a missing split: pairs of arrays, or data sets of (image, label).

    Several data sets are used as they are: no test split is carved unless ``data.test`` asks for it. A single one is split like a folder without splits.

    Raises:
        CoterieError: there are not three entries or no training data, or samples are not images with class numbers.
    """
    alone = not isinstance(datasets, Mapping) and (not isinstance(datasets, (tuple, list)) or is_dataset(datasets))
    datasets = to_datasets(datasets)
    train, validation, test = (
        None if each is None else _from_object(each, f"data[{position}]") for position, each in enumerate(datasets)
    )
    assert train is not None
    classes = getattr(datasets[0], "classes", None)
    labels = np.concatenate([each.labels for each in (train, validation, test) if each is not None])
    names = tuple(map(str, classes)) if classes is not None else numbered(labels)
    if recipe is not None:
        assign = assign_held_out if alone else carve_test
        train, validation, test = assign(train, validation, test, recipe, names)
    return RawData(OWN_DATA, names, train, validation, test)


def _from_object(samples: Any, what: str) -> Samples:
    if is_pair(samples) or (isinstance(samples, tuple) and len(samples) == 2 and hasattr(samples[0], "shape")):
        return to_arrays(samples[0], samples[1], what)
    if not hasattr(samples, "__getitem__") or not hasattr(samples, "__len__"):
        raise CoterieError(f"{what} is {type(samples).__name__}: {EXPECTED}")
    return _with_labels(samples, _labels(samples, what), what)


def _labels(samples: Any, what: str) -> Labels:
    """Returns every sample's label: from torchvision's ``targets`` if present, otherwise by iterating over the data set once."""
    known = getattr(samples, "targets", None)
    if known is not None and len(known) == len(samples) and getattr(samples, "target_transform", None) is None:
        return _checked_labels(known, len(samples), what)
    labels = []
    for number in range(len(samples)):
        try:
            _, label = samples[number]
            labels.append(int(label))
        except Exception as error:  # custom code may raise anything
            raise CoterieError(
                f"{what}, sample {number}: expected (image, class number), got {type(error).__name__}: {error}"
            ) from None
    return _checked_labels(labels, len(labels), what)


def _with_labels(source: Any, labels: Labels, what: str) -> Objects:
    if len(labels) == 0:
        raise CoterieError(f"{what} holds no samples")
    try:
        first = to_pixels(source[0][0])
    except CoterieError as error:
        raise CoterieError(f"{what}, sample 0: {error}") from None
    return Objects(source, np.arange(len(labels)), labels, what, first.shape[-1])


def to_arrays(images: Any, labels: Any, what: str) -> Arrays:
    """Checks and converts arrays: images uint8 [N, H, W, C], [N, C, H, W] or [N, H, W], or floats in 0..1; labels [N].

    Raises:
        CoterieError: values or axes of the images are ambiguous, or labels do not match.
    """
    is_tensor = hasattr(images, "detach")
    images, labels = (each.detach().cpu().numpy() if hasattr(each, "detach") else each for each in (images, labels))
    images = as_array(images)
    if images.ndim not in {3, 4}:
        raise CoterieError(
            f"{what}: images are {images.dtype} {list(images.shape)}, expected [N, H, W, C], [N, C, H, W] or [N, H, W]"
        )
    images = four_axes(_as_bytes(images, what))
    if _channels_first(images.shape, is_tensor, what):
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return Arrays(images, _checked_labels(labels, len(images), what))


def _as_bytes(images: Any, what: str) -> Any:
    """Converts pixels to uint8; floats in 0..1 are scaled to 0..255."""
    if images.dtype == np.uint8:
        return images
    low, high = (images.min(), images.max()) if images.size else (0, 0)
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(images * 255).astype(np.uint8)
    if images.dtype.kind == "i" and low >= 0 and 1 < high <= 255:
        return images.astype(np.uint8)
    raise CoterieError(
        f"{what}: images are {images.dtype} {list(images.shape)} from {low:g} to {high:g}; expected uint8, or floats in 0..1 that are not normalised"
    )


def _channels_first(shape: tuple[int, ...], is_tensor: bool, what: str) -> bool:
    """Whether images of this shape are [N, C, H, W]. Two equal axes are height and width; otherwise the axis of at most four is the channels.

    Raises:
        CoterieError: the axes are ambiguous.
    """
    _, first, middle, last = shape
    if first == last:
        return is_tensor
    if (first == middle) != (middle == last):
        return middle == last
    few = 4
    if (first <= few) != (last <= few):
        return first <= few
    if first <= few or is_tensor:
        return is_tensor
    raise CoterieError(
        f"{what}: images are {list(shape)}, which may be [N, H, W, C] or [N, C, H, W]; pass them as a torch tensor if it is the latter, or one image at a time as a data set"
    )


def _checked_labels(labels: Any, count: int, what: str) -> Labels:
    found = as_array(labels)
    if found.shape != (count,) or (count and (found.dtype.kind not in "iu" or found.min() < 0)):
        raise CoterieError(f"{what}: labels are {found.dtype} {list(found.shape)}, expected class numbers [{count}]")
    if count and found.max() > np.iinfo(np.int64).max:
        raise CoterieError(f"{what}: the label {found.max()} is no class number")
    return found.astype(np.int64)


class _Rows:
    """A Hub data set as a sequence of (image, label)."""

    def __init__(self, part: Any, image: str, label: str) -> None:
        self.part, self.image, self.label = part, image, label

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        row = self.part[number]
        return row[self.image], row[self.label]


def _column(part: Any, label: str) -> Any:
    """Returns a column of numbers without a Python object for each."""
    return part.with_format("numpy")[label][:]


def hub(name: str, recipe: ImageData) -> RawData:
    """Loads ``hf://user/dataset`` or ``hf://user/dataset:configuration``: the columns image and label of its splits. The images stay in a
    memory-mapped file and are decoded when they are read.

    Raises:
        CoterieError: the extra ``hub`` is missing, or the data set cannot be loaded or lacks these columns.
    """
    found = load_hub(name, name.removeprefix("hf://"))
    if "train" not in found:
        raise CoterieError(f"data={name} has no train split, only {', '.join(found)}")
    features = found["train"].features
    image = next((key for key in IMAGE_COLUMNS if key in features), None)
    label = next((key for key in LABEL_COLUMNS if key in features), None)
    if image is None or label is None:
        raise CoterieError(f"data={name} has the columns {', '.join(features)}; expected image and label")

    def samples(split: str) -> Objects | None:
        if split not in found:
            return None
        part = found[split]
        return _with_labels(_Rows(part, image, label), _checked_labels(_column(part, label), len(part), name), name)

    train = samples("train")
    assert train is not None
    names = tuple(map(str, getattr(features[label], "names", None) or numbered(train.labels)))
    return RawData(name, names, *assign_held_out(train, samples("validation"), samples("test"), recipe, names))
