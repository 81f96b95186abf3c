"""What the loaders hand to the loop, and what the loop knows of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from coterie.data.raw import Pixels


class Batch(NamedTuple):
    """Attributes:
    inputs: normalised float32 [B, C, H, W] on the device, or a list with one view for each student.
    targets: class indices int64 [B], or distributions float32 [B, K].
    indices: the samples' numbers in their split, int64 [B]; -1 for samples that only fill up a process's last batch.
    """

    inputs: Tensor | list[Tensor]
    targets: Tensor
    indices: Tensor


@dataclass(frozen=True)
class DataInfo:
    """Attributes:
    input_size: channels, height, width.
    mean, std: what pixels in 0..1 are normalised with.
    interpolation, crop: how evaluation images are resized: to the size divided by ``crop``, then the centre is cut out.
    skipped: images that could not be decoded and were left out.
    """

    name: str
    class_names: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop: float = 1.0
    skipped: int = 0


class TrainLoader(Protocol):
    """Shuffled, augmented batches; ``views`` > 1 gives a list of that many views of every image."""

    views: int

    @property
    def num_samples(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def class_counts(self) -> Tensor: ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]: ...


class EvaluationLoader(Protocol):
    """Batches in order, without augmentation, this process's share of them."""

    @property
    def num_samples(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def raw_images(self, indices: Sequence[int]) -> Pixels: ...


@dataclass(frozen=True)
class DataBundle:
    """The loaders of a run; ``train_evaluation`` gives the training images without augmentation."""

    info: DataInfo
    train: TrainLoader
    validation: EvaluationLoader | None
    test: EvaluationLoader | None
    train_evaluation: EvaluationLoader
