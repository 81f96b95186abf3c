"""What a source gives: images with labels, as arrays in memory or as files, split as the source splits them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Arrays:
    """Images in memory: ``images`` uint8 [N, H, W, C], ``labels`` int64 [N]."""

    images: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Labels) -> Arrays:
        return Arrays(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Files:
    """Images in files: ``paths`` and ``labels`` int64 [N]."""

    paths: tuple[Path, ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Labels) -> Files:
        return Files(tuple(self.paths[index] for index in indices), self.labels[indices])


Samples = Arrays | Files
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel, pixels in 0..1


@dataclass(frozen=True)
class RawData:
    """A data set as its source gives it.

    Attributes:
        validation, test: None where the source has none.
        statistics: known ones; None: measure them on the training images.
        flip: whether a mirrored image is as good as the image (not so for digits).
        skipped: images that could not be decoded and were left out.
    """

    name: str
    class_names: tuple[str, ...]
    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
    statistics: Statistics | None = None
    flip: bool = True
    skipped: int = 0
