"""Clips of audio of whatever source: how long they are, what is known of them, and how some of their samples are read."""

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
    """Where samples come from; mono, of one rate."""

    def read(self, number: int, start: int, count: int) -> Samples:
        """Samples ``start`` to ``start + count`` of a clip, float32 [count] in about -1..1. A function of its arguments; safe in several threads."""
        ...


@dataclass(frozen=True)
class Clips:
    """Some clips of a source.

    Attributes:
        source: gives their samples.
        numbers: of the clips in the source, int64 [N].
        lengths: in samples at the data's rate, int64 [N].
        names: to be shown, such as a file's, N of them.
        digests: of each clip's content, N of them.
        labels: by name, codes int64 [N]; -1 where a clip has none.
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
        """Some of them, in this order."""
        return replace(
            self,
            numbers=self.numbers[indices],
            lengths=self.lengths[indices],
            names=[self.names[index] for index in indices],
            digests=[self.digests[index] for index in indices],
            labels={name: codes[indices] for name, codes in self.labels.items()},
        )

    def read(self, index: int, start: int = 0, count: int | None = None) -> Samples:
        """Samples of the clip ``index``: see :meth:`Source.read`; by default all."""
        return self.source.read(int(self.numbers[index]), start, int(self.lengths[index]) if count is None else count)

    def seconds(self, rate: int) -> float:
        """Of all of them."""
        return float(self.lengths.sum()) / rate


def coded(values: Sequence[str | None]) -> tuple[list[str], Integers]:
    """Names in order of the alphabet, and each value's number among them; None and empty ones have -1.

    >>> coded(["b", None, "a", "b"])[1].tolist()
    [1, -1, 0, 1]
    """
    names = sorted({each for each in values if each})
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers.get(each or "", UNKNOWN) for each in values], dtype=np.int64)


def padded(rows: Sequence[Samples]) -> Tensor:
    """Clips as one tensor, zeros behind the shorter ones, float32 [B, S]."""
    found = np.zeros((len(rows), max(map(len, rows))), dtype=np.float32)
    for place, row in zip(found, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(found)


def described(clips: Clips, digest: Any) -> dict[str, Any]:
    """A split's part of what identifies the data, see :class:`coterie.run_schema.SplitRecord`.

    Args:
        clips: of the split.
        digest: a hash of ``hashlib``, new.
    """
    for each in clips.digests:
        digest.update(each.encode())
    for name, codes in clips.labels.items():
        digest.update(name.encode() + codes.tobytes())
    found = digest.hexdigest()
    return {"samples": len(clips), "order": found, "classes": {"": [len(clips), found]}}
