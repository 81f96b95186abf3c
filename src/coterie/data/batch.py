"""Interfaces between loaders and the training loop: batches, loaders and information about the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from coterie.data.nested import Inputs


class Batch(NamedTuple):
    """Attributes:
    inputs: on the device, a nested structure of tensors with samples along the first axis (normalised images float32 [B, C, H, W], or
        mappings of token tables); or a list with one such view for each student.
    targets: class indices int64 [B], or distributions float32 [B, K].
    indices: the samples' indices in their split, from 0, int64 [B]; -1 for samples that only pad a process's last batch.
    weight: weight of the losses, which are means over the batch. With it, the mean over processes and accumulated batches is exact even if batches contain
        unequal numbers of counted items.
    """

    inputs: Inputs
    targets: Tensor
    indices: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class SetInfo:
    """Information that every task's data provide.

    Attributes:
        skipped: number of samples that cannot be read.
        passed_over: number of files that were ignored because their format is not supported.
        duplicates: for each held-out split, how many of its samples are also training samples; splits that were not compared are missing.
        notes: these and other findings, in sentences.
    """

    name: str
    class_names: tuple[str, ...]
    skipped: int = field(default=0, kw_only=True)
    passed_over: int = field(default=0, kw_only=True)
    duplicates: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)


class TrainLoader(Protocol):
    """Shuffled, augmented batches; ``views`` > 1 yields a list of that many views of every sample."""

    views: int
    ahead: int  # number of prefetched batches

    @property
    def repeats(self) -> bool:
        """Whether a sample is the same in every epoch and view, and the same as in ``train_evaluation``."""
        ...

    @property
    def num_samples(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]: ...


class ClassTrainLoader(TrainLoader, Protocol):
    """Training loader of samples with one class each."""

    @property
    def class_counts(self) -> Tensor:
        """Number of training samples of every class, int64 [K]."""
        ...


class EvaluationLoader(Protocol):
    """This process's share of the batches, in order and without augmentation."""

    @property
    def num_samples(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Loaders:
    """The loaders of a run, for any task; ``train_evaluation`` yields the training samples without augmentation.

    ``fingerprint``: see :func:`coterie.data.fingerprint.fingerprint`.
    """

    info: SetInfo
    train: TrainLoader
    validation: EvaluationLoader | None
    test: EvaluationLoader | None
    train_evaluation: EvaluationLoader
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def use_channels_last(self, channels_last: bool) -> None:
        """Yields batches in this memory format from now on; no effect if samples are not images."""
