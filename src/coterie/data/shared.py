"""Arrays and names of very many samples that worker processes share without copies."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SharedArray:
    """A NumPy array that moves to shared memory when it is first sent to another process; all processes then read the same bytes.

    Forked processes share it in any case: nothing is written to its memory, not even reference counts as with Python objects.

    Args:
        array: array of numbers; must not be modified afterwards.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self._tensor: Any = None

    def __len__(self) -> int:
        return len(self.array)

    def __getstate__(self) -> Any:
        # torch sends shared-memory tensors between processes as handles; pickled to a file they are copied, like arrays.
        if self._tensor is None:
            import torch

            self._tensor = torch.from_numpy(np.ascontiguousarray(self.array).copy()).share_memory_()
            self.array = self._tensor.numpy()
        return {"tensor": self._tensor}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._tensor = state["tensor"]
        self.array = self._tensor.numpy()


class Names:
    """Compact list of very many names: concatenated bytes and the offset of each.

    A Python string takes 50 bytes more than its characters, a ``Path`` several hundred.
    """

    def __init__(self, letters: NDArray[np.uint8], bounds: NDArray[np.int64]) -> None:
        self.letters, self.bounds = SharedArray(letters), SharedArray(bounds)

    @classmethod
    def of(cls, names: Iterable[bytes]) -> Names:
        collected = NameList()
        for name in names:
            collected.add(name)
        return collected.names()

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, number: int) -> bytes:
        bounds = self.bounds.array
        # item() is several times as fast as indexing, which creates a NumPy scalar.
        return self.letters.array[bounds.item(number) : bounds.item(number + 1)].tobytes()


class NameList:
    """Builder of :class:`Names`."""

    def __init__(self) -> None:
        self._letters = bytearray()
        self._bounds = array("q", [0])

    def add(self, name: bytes) -> None:
        self._letters += name
        self._bounds.append(len(self._letters))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def names(self) -> Names:
        """Returns the collected names."""
        return Names(np.frombuffer(bytes(self._letters), dtype=np.uint8), np.frombuffer(self._bounds, dtype=np.int64))
