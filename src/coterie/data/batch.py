"""What the loaders hand to the loop, and what the loop knows of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from coterie.data.nested import Inputs


class Batch(NamedTuple):
    """Attributes:
    inputs: on the device, a nested structure of tensors with the samples as first axis (normalised images float32 [B, C, H, W], or
        mappings of token tables); or a list with one such view for each student.
    targets: class indices int64 [B], or distributions float32 [B, K].
    indices: the samples' numbers in their split, from 0, int64 [B]; -1 for samples that only fill up a process's last batch.
    weight: by which the losses, means over the batch, count. Their mean over processes, and over batches that are added up, is thereby one over
        all that is counted, where batches hold unequally much of it.
    """

    inputs: Inputs
    targets: Tensor
    indices: Tensor
    weight: float = 1.0


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

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]: ...


class ClassTrainLoader(TrainLoader, Protocol):
    """Of samples that have a class each."""

    @property
    def class_counts(self) -> Tensor:
        """Training samples of every class, int64 [K]."""
        ...


class EvaluationLoader(Protocol):
    """Batches in order, without augmentation, this process's share of them."""

    @property
    def num_samples(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


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
