"""Audio clips from any source: their lengths and labels, and reading of their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integers = NDArray[np.int64]
Samples = NDArray[np.float32]
UNKNOWN = -1  # the code of a label that a clip does not have


class Source(Protocol):
    """Source of samples, mono and at one rate."""

    def read(self, number: int, start: int, count: int) -> Samples:
        """Return samples ``start`` to ``start + count`` of a clip, float32 [count] in about -1..1. Deterministic and thread-safe."""
        ...


@dataclass(frozen=True)
class Clips:
    """Some clips of a source.

    Attributes:
        source: source of their samples.
        numbers: indices of the clips in the source, int64 [N].
        lengths: lengths in samples at the data's rate, int64 [N].
        names: N display names, such as those of files.
        digests: N digests of the clips' content.
        labels: codes by label name, int64 [N]; -1 for clips without the label.
    """

    source: Source
    numbers: Integers
    lengths: Integers
    names: Sequence[str]
    digests: Sequence[str]
    labels: Mapping[str, Integers]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, indices: Integers) -> Self:
        """Select clips, in this order."""
        return replace(
            self,
            numbers=self.numbers[indices],
            lengths=self.lengths[indices],
            names=[self.names[index] for index in indices],
            digests=[self.digests[index] for index in indices],
            labels={name: codes[indices] for name, codes in self.labels.items()},
        )

    def read(self, index: int, start: int = 0, count: int | None = None) -> Samples:
        """Read samples of the clip ``index``, by default all. See :meth:`Source.read`."""
        return self.source.read(int(self.numbers[index]), start, int(self.lengths[index]) if count is None else count)

    def seconds(self, rate: int) -> float:
        """Return the total duration of all clips."""
        return float(self.lengths.sum()) / rate


def coded(values: Sequence[str | None]) -> tuple[list[str], Integers]:
    """Return the names in alphabetical order, and each value's index among them; -1 for None and empty values.

    >>> coded(["b", None, "a", "b"])[1].tolist()
    [1, -1, 0, 1]
    """
    names = sorted({each for each in values if each})
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers.get(each or "", UNKNOWN) for each in values], dtype=np.int64)


def padded(rows: Sequence[Samples]) -> Tensor:
    """Stack clips to one tensor, zero-padded on the right, float32 [B, S]."""
    found = np.zeros((len(rows), max(map(len, rows))), dtype=np.float32)
    for place, row in zip(found, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(found)


def described(clips: Clips, digest: Any) -> dict[str, Any]:
    """Return the record that identifies a split, see :class:`coterie.run_schema.SplitRecord`.

    Args:
        clips: clips of the split.
        digest: a new hash object of ``hashlib``.
    """
    for each in clips.digests:
        digest.update(each.encode())
    for name, codes in clips.labels.items():
        digest.update(name.encode() + codes.tobytes())
    found = digest.hexdigest()
    return {"samples": len(clips), "order": found, "classes": {"": [len(clips), found]}}
