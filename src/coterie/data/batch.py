"""What the loaders hand to the loop, and what the loop knows of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from coterie.data.nested import Inputs
from coterie.tasks.images.data.raw import Pixels


class Batch(NamedTuple):
    """Attributes:
    inputs: on the device, a nested structure of tensors with the samples as first axis (normalised images float32 [B, C, H, W], or
        mappings of token tables); or a list with one such view for each student.
    targets: class indices int64 [B], or distributions float32 [B, K].
    indices: the samples' numbers in their split, int64 [B]; -1 for samples that only fill up a process's last batch.
    """

    inputs: Inputs
    targets: Tensor
    indices: Tensor


@dataclass(frozen=True)
class SetInfo:
    """What every task's data have.

    Attributes:
        skipped: samples that cannot be read.
        passed_over: files that were not read, since they are of no format that is.
        duplicates: by held-out split, how many of its samples are training samples too; a split whose samples were not compared is missing.
        notes: these and what else was found, in sentences.
    """

    name: str
    class_names: tuple[str, ...]
    skipped: int = field(default=0, kw_only=True)
    passed_over: int = field(default=0, kw_only=True)
    duplicates: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class DataInfo(SetInfo):
    """Of images.

    Attributes:
    input_size: channels, height, width.
    mean, std: what pixels in 0..1 are normalised with.
    interpolation, crop: how evaluation images are resized: to the size divided by ``crop``, then the centre is cut out.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop: float = 1.0


class TrainLoader(Protocol):
    """Shuffled, augmented batches; ``views`` > 1 gives a list of that many views of every sample."""

    views: int
    ahead: int  # batches that are prepared in advance

    @property
    def repeats(self) -> bool:
        """Whether a sample looks the same in every epoch and view, as the evaluation of the training samples shows it."""
        ...

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


@runtime_checkable
class ImageLoader(EvaluationLoader, Protocol):
    """An evaluation loader that can show its images."""

    def raw_images(self, indices: Sequence[int]) -> Pixels: ...

    def prepared(self, indices: Sequence[int]) -> Tensor:
        """Inputs float32 [n, C, H, W] of these samples alone, as batches hold them."""
        ...

    def use_channels_last(self, channels_last: bool) -> None: ...


class ImageTrainLoader(TrainLoader, Protocol):
    """A training loader whose batches have a memory format."""

    def use_channels_last(self, channels_last: bool) -> None: ...


@dataclass(frozen=True)
class Loaders:
    """The loaders of a run, of whatever task; ``train_evaluation`` gives the training samples without augmentation.

    ``fingerprint``: see :func:`coterie.data.fingerprint.fingerprint`.
    """

    info: SetInfo
    train: TrainLoader
    validation: EvaluationLoader | None
    test: EvaluationLoader | None
    train_evaluation: EvaluationLoader
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def use_channels_last(self, channels_last: bool) -> None:
        """Give batches in that memory format from now on; nothing where samples are no images."""


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
