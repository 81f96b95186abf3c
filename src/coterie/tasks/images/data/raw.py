"""Data as returned by a source: images with labels, as arrays in memory, files or objects, with the splits of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coterie.data.arrays import Labels, Pixels, as_array
from coterie.data.decoding import DEEP, UnreadableImage, open_image, reason_of, upright
from coterie.errors import CoterieError, RunError
from coterie.randomness import drawing_from
from coterie.tasks.images.data.stored import Stored, evenly

GREY = {"L", *DEEP}  # Pillow's modes that are kept as one channel
FEW_CLASSES = 1_000  # class numbers without names may always be below this, even with fewer samples
SAMPLES_TRIED, READINGS = 16, 8  # of a custom data set, to find out whether readings of a sample differ
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel, pixels in 0..1


@dataclass(frozen=True)
class Arrays:
    """Images in memory: ``images`` uint8 [N, H, W, C], ``labels`` int64 [N]."""

    images: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Labels) -> Arrays:
        return Arrays(self.images[indices], self.labels[indices])

    def pixels(self, number: int) -> Pixels:
        return self.images[number]

    @property
    def channels(self) -> int:
        return int(self.images.shape[-1])


@dataclass(frozen=True)
class Files:
    """Encoded images, read as RGB: where they are stored, ``labels`` int64 [N], and ``digests`` of their pixels uint64 [N], None if unknown."""

    stored: Stored
    labels: Labels
    digests: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Labels) -> Files:
        digests = None if self.digests is None else self.digests[indices]
        return Files(self.stored.take(indices), self.labels[indices], digests)

    def unlabelled(self) -> Files:
        """Returns the same images without labels, so that little data is sent to worker processes."""
        return Files(self.stored, self.labels[:0])

    def pixels(self, number: int) -> Pixels:
        """Reads an image, uint8 [H, W, 3], see :meth:`image`."""
        return np.asarray(self.image(number))

    def image(self, number: int) -> Image.Image:
        """Reads an image as RGB.

        Raises:
            RunError: the file cannot be read any more.
        """
        try:
            with self.stored.open(number) as file:
                return upright(open_image(file))
        except Exception as error:  # decoders raise many types on broken files
            name = self.stored.name(number)
            raise RunError(f"cannot decode {name!r}: {reason_of(error, name)}") from None

    channels = 3


@dataclass(frozen=True)
class Objects:
    """Images of a custom data set, read on request: sample ``numbers[i]`` of ``source`` is (image, label).

    ``what`` is the source's name in messages, ``labels`` are int64 [N], and ``channels`` is that of the first image.
    """

    source: Any
    numbers: Labels
    labels: Labels
    what: str
    channels: int

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Labels) -> Objects:
        return Objects(self.source, self.numbers[indices], self.labels[indices], self.what, self.channels)

    def pixels(self, number: int) -> Pixels:
        """Reads an image, uint8 [H, W, C].

        Raises:
            RunError: the data set fails on this sample.
        """
        position = int(self.numbers[number])
        try:
            return to_pixels(self.source[position][0])
        except Exception as error:  # custom code may raise anything
            raise RunError(f"{self.what}, sample {position}: {type(error).__name__}: {error}") from None

    @cached_property
    def varies(self) -> bool:
        """Whether readings of a sample differ, by random transforms of the data set; tested on a few evenly spaced samples.

        Each is read several times: a transform that changes one reading in ten is missed once in 700,000 data sets.
        """
        for number in range(0, len(self), -(-len(self) // SAMPLES_TRIED)):
            first = self._read_with(0, number)
            for seed in range(1, READINGS):
                other = self._read_with(seed, number)
                if first.shape != other.shape or not np.array_equal(first, other):
                    return True
        return False

    def _read_with(self, seed: int, number: int) -> Pixels:
        with drawing_from(seed):
            return self.pixels(number)


Samples = Arrays | Files | Objects


def sample_numbers(samples: Samples, count: int) -> Labels:
    """Returns the numbers of up to ``count`` images from all over the data."""
    return samples.stored.sample(count) if isinstance(samples, Files) else evenly(len(samples), count)


def to_image(samples: Samples, number: int) -> Image.Image:
    """Returns a sample as a PIL image: grey if the samples have one channel, otherwise RGB."""
    if isinstance(samples, Files):
        return samples.image(number)
    pixels = samples.pixels(number)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return image.convert("L" if samples.channels == 1 else "RGB")


def to_pixels(image: Any) -> Pixels:
    """Converts a PIL image, an array [H, W] or [H, W, C], or a tensor [C, H, W] to uint8 [H, W, C].

    Floating-point tensors must be in 0..1, not normalised; all other inputs are bytes.

    Raises:
        CoterieError: the input is anything else.
    """
    if hasattr(image, "convert"):
        try:
            image = np.asarray(upright(image, grey=image.mode in GREY))
        except UnreadableImage as error:
            raise CoterieError(f"the image cannot be used: {error}") from None
    elif hasattr(image, "detach"):
        image = image.detach().cpu()
        if image.ndim != 3 or (image.is_floating_point() and (image.min() < 0 or image.max() > 1)):
            raise CoterieError("a tensor image must be [C, H, W], bytes or floats in 0..1 that are not normalised")
        image = (image * 255).round().byte() if image.is_floating_point() else image
        image = image.permute(1, 2, 0).numpy()
    pixels: Pixels = as_array(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in {2, 3}:
        raise CoterieError(f"expected an image, got {type(image).__name__} {pixels.dtype} {list(pixels.shape)}")
    return four_axes(pixels[None])[0]


def four_axes(images: Pixels) -> Pixels:
    """Adds a channel axis to images [N, H, W]; images [N, H, W, C] are unchanged."""
    return images[..., None] if images.ndim == 3 else images


@dataclass(frozen=True)
class RawData:
    """A data set as returned by its source.

    Attributes:
        validation, test: None if the source has none.
        statistics: known statistics; None: measure them on the training images.
        flip: whether horizontal flips keep the class (False for digits).
        skipped: number of images that could not be decoded and were left out.
        passed_over: number of ignored files, which are not in an accepted image format or are outside of the image folders.
        duplicates: for each held-out split, how many of its images are also training images.
        notes: findings and ignored files, in sentences for the user.
    """

    name: str
    class_names: tuple[str, ...]
    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
    statistics: Statistics | None = None
    flip: bool = True
    skipped: int = 0
    passed_over: int = 0
    duplicates: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def splits(self) -> dict[str, Samples]:
        """Returns the existing splits by name, ``train`` first."""
        every = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: samples for name, samples in every.items() if samples is not None}


def numbered(labels: Labels, count: int | None = None) -> tuple[str, ...]:
    """Returns numbers up to the largest label as class names, for data without names.

    Args:
        labels: labels of the samples, or the different ones among them.
        count: number of samples; None: as many as labels.

    Raises:
        CoterieError: a label is too large to be a class number, such as an identifier.
    """
    highest, count = int(labels.max(initial=-1)), len(labels) if count is None else count
    if highest >= max(count, FEW_CLASSES):
        raise CoterieError(
            f"the label {highest} of {count} samples: labels are class numbers from 0 on; name the classes, or renumber them"
        )
    return tuple(str(label) for label in range(highest + 1))


def with_classes(raw: RawData, classes: Sequence[str]) -> RawData:
    """Renumbers the labels to index ``classes``, of which the data may lack some; data with any other class are returned unchanged."""
    numbers = {name: number for number, name in enumerate(classes)}
    if not numbers.keys() >= set(raw.class_names):
        return raw
    mapping = np.array([numbers[name] for name in raw.class_names], dtype=np.int64)

    def renumbered(samples: Samples | None) -> Samples | None:
        return None if samples is None else replace(samples, labels=mapping[samples.labels])

    return replace(
        raw,
        class_names=tuple(classes),
        train=replace(raw.train, labels=mapping[raw.train.labels]),
        validation=renumbered(raw.validation),
        test=renumbered(raw.test),
    )


def require_consistent(raw: RawData, incomplete: bool = False) -> None:
    """Refuse data that would fail during a run.

    Args:
        raw: the data as returned by their source.
        incomplete: whether a class may have no training samples.

    Raises:
        CoterieError: a split is empty, there are fewer than two classes, a label has no class, a class is missing, or images differ in size or channels.
    """
    for split, samples in raw.splits().items():
        if len(samples) == 0:
            raise CoterieError(f"{raw.name!r}: the {split} split holds no images")
        if isinstance(samples, Arrays) and 0 in samples.images.shape:
            raise CoterieError(f"{raw.name!r}: {split} images are {list(samples.images.shape)}, without any pixels")
        highest, count = int(samples.labels.max()), len(raw.class_names)
        if highest >= count or samples.labels.min() < 0:
            raise CoterieError(f"{raw.name!r}: the {split} split has the label {highest}, there are {count} classes")
        if isinstance(samples, Arrays) and isinstance(raw.train, Arrays):
            expected, found = raw.train.images.shape[1:], samples.images.shape[1:]
            if expected != found:
                raise CoterieError(f"{raw.name!r}: {split} images are {found}, training images {expected}")
        if samples.channels != raw.train.channels:
            raise CoterieError(
                f"{raw.name!r}: {split} images have {samples.channels} channels, not {raw.train.channels}"
            )
    present = set(raw.train.labels.tolist())
    if len(present) < 2 and not incomplete:
        raise CoterieError(f"{raw.name!r} has one class: expected at least two")
    if incomplete:
        return
    empty = [name for label, name in enumerate(raw.class_names) if label not in present]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise CoterieError(
            f"{raw.name!r}: the class {empty[0]!r}{more} has no training samples; renumber the classes, or set data.incomplete_classes=accept"
        )
    for split in ("validation", "test"):
        missing = present - set(raw.splits().get(split, raw.train).labels.tolist())
        if missing:
            name = raw.class_names[min(missing)]
            raise CoterieError(
                f"{raw.name!r}: the {split} split has no samples of the class {name!r}; add some, or set data.incomplete_classes=accept"
            )
