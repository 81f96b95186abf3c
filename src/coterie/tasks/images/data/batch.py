"""Protocols of image loaders, and information about image data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from coterie.data.arrays import Pixels
from coterie.data.batch import EvaluationLoader, Loaders, SetInfo, TrainLoader


@dataclass(frozen=True)
class DataInfo(SetInfo):
    """Information about image data.

    Attributes:
    input_size: channels, height, width.
    mean, std: statistics by which pixels in 0..1 are normalised.
    interpolation, crop: how evaluation images are resized: to the size divided by ``crop``, followed by a centre crop.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop: float = 1.0


@runtime_checkable
class ImageLoader(EvaluationLoader, Protocol):
    """An evaluation loader that can also return its unnormalised images."""

    def raw_images(self, indices: Sequence[int]) -> Pixels: ...

    def prepared(self, indices: Sequence[int]) -> Tensor:
        """Returns the inputs of these samples, float32 [n, C, H, W], preprocessed as in batches."""
        ...

    def use_channels_last(self, channels_last: bool) -> None: ...


class ImageTrainLoader(TrainLoader, Protocol):
    """A training loader whose memory format can be set."""

    def use_channels_last(self, channels_last: bool) -> None: ...


@dataclass(frozen=True)
class DataBundle(Loaders):
    """The loaders of images."""

    info: DataInfo
    train: ImageTrainLoader
    validation: ImageLoader | None
    test: ImageLoader | None
    train_evaluation: ImageLoader

    def use_channels_last(self, channels_last: bool) -> None:
        """See :meth:`Loaders.use_channels_last`."""
        for loader in (self.train, self.validation, self.test, self.train_evaluation):
            if loader is not None:
                loader.use_channels_last(channels_last)
