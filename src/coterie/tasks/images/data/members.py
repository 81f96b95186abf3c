"""Images in tar files, read by index."""

from __future__ import annotations

import hashlib
import io
import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from coterie.data.arrays import Labels
from coterie.data.order import Shards
from coterie.data.shared import Names, SharedArray
from coterie.tasks.images.data.stored import evenly, file_state

OPEN_AT_MOST = 64  # tar files that a process keeps open at once


class TarMembers:
    """Images that are members of tar files, see :class:`coterie.tasks.images.data.stored.Stored`; 1,000,000 of them take about 60 MB.

    Args:
        tars: paths of the tar files.
        names: names of the N members.
        columns: int64 [3, N]: index of the tar file, first byte, number of bytes.
        rows: int32 [n], the selected members, in order; None: all.
    """

    def __init__(self, tars: Names, names: Names, columns: SharedArray, rows: SharedArray | None = None) -> None:
        self.tars, self.names, self.columns = tars, names, columns
        self.rows = SharedArray(np.arange(len(names), dtype=np.int32)) if rows is None else rows
        self._files: dict[int, _OpenFile] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return TarMembers, (self.tars, self.names, self.columns, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Labels) -> TarMembers:
        return TarMembers(self.tars, self.names, self.columns, SharedArray(self.rows.array[indices]))

    def _tar(self, number: int) -> str:
        return os.fsdecode(self.tars[self.columns.array.item(0, self.rows.array.item(number))])

    def name(self, number: int) -> str:
        return f"{self._tar(number)}/{os.fsdecode(self.base_name(number))}"

    def base_name(self, number: int) -> bytes:
        return self.names[self.rows.array.item(number)]

    def open(self, number: int) -> IO[bytes]:
        size = self.columns.array.item(2, self.rows.array.item(number))
        content = self.head(number, size)
        if len(content) < size:
            raise OSError("the tar file has become shorter since training started")
        return io.BytesIO(content)

    def head(self, number: int, count: int) -> bytes:
        row = self.rows.array.item(number)
        tar, offset, size = (self.columns.array.item(column, row) for column in range(3))
        file = self._files.get(tar)
        if file is None:
            if len(self._files) >= OPEN_AT_MOST:
                self._files = {}
            file = self._files[tar] = _OpenFile(os.fsdecode(self.tars[tar]))
        return os.pread(file.number, min(count, size), offset)

    @property
    def place(self) -> str:
        return self._tar(0)

    @property
    def sizes(self) -> NDArray[np.int64]:
        sizes: NDArray[np.int64] = self.columns.array[2, self.rows.array]
        return sizes

    @property
    def shards(self) -> Shards:
        """The index of each image's tar file."""
        return Shards(self.columns.array[0, self.rows.array])

    def sample(self, count: int) -> Labels:
        return evenly(len(self), count)

    def state(self) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        for tar in range(len(self.tars)):
            digest.update(file_state(os.fsdecode(self.tars[tar])))
        digest.update(np.ascontiguousarray(self.rows.array).data)
        return digest.digest()


class _OpenFile:
    """A file descriptor for reads at any position, from threads and forked processes; closed when the object is deleted."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
