"""Images in parquet files, read by index: a row group is decoded as a whole and kept for its other rows."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from functools import cached_property
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from coterie.data.arrays import Labels
from coterie.data.decoding import UnreadableImage
from coterie.data.order import BUFFER, STREAMS, Shards
from coterie.data.shared import Names, SharedArray
from coterie.tasks.images.data.stored import file_state

KEPT = 512 * 2**20  # bytes of decoded row groups that a process keeps; order and sampling are chosen to fit
OPEN_AT_MOST = 64  # parquet files that a process keeps open at once
SAMPLED_GROUPS = 10  # row groups that a sample is taken from


class ParquetRows:
    """Images in rows of parquet files, see :class:`coterie.tasks.images.data.stored.Stored`; 1,000,000 of them take about 4 MB.

    Args:
        files: paths of the parquet files.
        groups: int64 [4, G], for each row group: index of its file, its index in the file, its first row in the data set, its uncompressed bytes.
        count: number of rows of all files.
        column: path of the column with the encoded images.
        filesystem: filesystem of fsspec that the paths belong to; None: files of this machine.
        rows: int32 [n], the selected rows, in order; None: all.
    """

    def __init__(
        self,
        files: Names,
        groups: SharedArray,
        count: int,
        column: str,
        filesystem: Any = None,
        rows: SharedArray | None = None,
    ) -> None:
        self.files, self.groups, self.count, self.column, self.filesystem = files, groups, count, column, filesystem
        self.rows = SharedArray(np.arange(count, dtype=np.int32)) if rows is None else rows
        self._starts = groups.array[2].tolist()
        self._decoded: OrderedDict[int, Any] = OrderedDict()
        self._open: dict[int, Any] = {}
        self._process, self._lock = os.getpid(), threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetRows, (self.files, self.groups, self.count, self.column, self.filesystem, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Labels) -> ParquetRows:
        rows = SharedArray(self.rows.array[indices])
        return ParquetRows(self.files, self.groups, self.count, self.column, self.filesystem, rows)

    def name(self, number: int) -> str:
        group, row = self._position(number)
        return f"{self._file(group)}:{row - self._first_row(group)}"

    def base_name(self, number: int) -> bytes:
        group, row = self._position(number)
        return os.fsencode(f"{os.path.basename(self._file(group))}:{row - self._first_row(group)}")

    def open(self, number: int) -> IO[bytes]:
        return io.BytesIO(self._bytes(number))

    def head(self, number: int, count: int) -> bytes:
        return self._bytes(number)[:count]

    @property
    def place(self) -> str:
        return self._file(self._position(0)[0])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Mean size of the images of each image's row group; the files do not say the size of each."""
        ends = np.append(self.groups.array[2, 1:], self.count)
        means = self.groups.array[3] // np.maximum(ends - self.groups.array[2], 1)
        sizes: NDArray[np.int64] = means[self._groups]
        return sizes

    @property
    def shards(self) -> Shards:
        """The row group of each image. Streams and buffer are such that a process keeps the row groups that it reads."""
        bytes_each = max(int(self.groups.array[3].max(initial=1)), 1)
        rows_each = max(self.count // max(len(self._starts), 1), 1)
        streams = min(STREAMS, max(1, KEPT // (2 * bytes_each)))
        buffer = int((KEPT / (streams * bytes_each) - 1) * rows_each)
        return Shards(self._groups, streams, min(BUFFER, max(1, buffer)))

    def sample(self, count: int) -> Labels:
        """Returns the first rows of a few evenly spaced row groups, because reading one row reads its whole group."""
        groups = self._groups
        firsts = np.flatnonzero(np.diff(groups, prepend=-1))
        chosen = firsts[:: -(-len(firsts) // SAMPLED_GROUPS)]
        runs = [np.arange(first, min(first + -(-count // len(chosen)), len(groups))) for first in chosen]
        return np.concatenate([run[groups[run] == groups[run[0]]] for run in runs])[:count]

    def state(self) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        for number in range(len(self.files)):
            digest.update(file_state(os.fsdecode(self.files[number]), self.filesystem))
        digest.update(np.ascontiguousarray(self.rows.array).data)
        return digest.digest()

    @cached_property
    def _groups(self) -> Labels:
        """The row group of each image, int64 [n]."""
        return np.searchsorted(self.groups.array[2], self.rows.array, side="right") - 1

    def _position(self, number: int) -> tuple[int, int]:
        row = self.rows.array.item(number)
        return bisect_right(self._starts, row) - 1, row

    def _file(self, group: int) -> str:
        return os.fsdecode(self.files[self.groups.array.item(0, group)])

    def _first_row(self, group: int) -> int:
        """Returns the first row of the group's file."""
        return self._starts[group - self.groups.array.item(1, group)]

    def _bytes(self, number: int) -> bytes:
        group, row = self._position(number)
        value = self._group(group)[row - self._starts[group]].as_py()
        if value is None:
            raise UnreadableImage("the row holds no picture")
        content: bytes = value
        return content

    def _group(self, group: int) -> Any:
        """Returns a row group's images as an array of Arrow, decoded once while it is kept."""
        with self._lock:
            if self._process != os.getpid():  # a fork shares no open files of other machines
                self._open, self._decoded, self._process = {}, OrderedDict(), os.getpid()
            if group in self._decoded:
                self._decoded.move_to_end(group)
                return self._decoded[group]
            images = self._read(group)
            self._decoded[group] = images
            while len(self._decoded) > 1 and sum(each.nbytes for each in self._decoded.values()) > KEPT:
                self._decoded.popitem(last=False)
            return images

    def _read(self, group: int) -> Any:
        file = self.groups.array.item(0, group)
        if file not in self._open:
            if len(self._open) >= OPEN_AT_MOST:
                self._open = {}
            self._open[file] = open_parquet(os.fsdecode(self.files[file]), self.filesystem)
        with as_os_error():
            table = self._open[file].read_row_group(
                self.groups.array.item(1, group), columns=[self.column], use_threads=False
            )
            images = table.column(0)
            return images.flatten()[0] if "." in self.column else images  # of a struct, one field is read


@contextlib.contextmanager
def as_os_error() -> Any:
    """Turns errors of Arrow into an OSError."""
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise OSError(" ".join(str(error).split())) from None


def open_parquet(path: str, filesystem: Any = None) -> Any:
    """Opens a parquet file; only its footer is read.

    Raises:
        OSError: the file is missing, damaged, or no parquet file.
    """
    import pyarrow.parquet

    with as_os_error():
        if filesystem is None:
            return pyarrow.parquet.ParquetFile(path, memory_map=True)
        return pyarrow.parquet.ParquetFile(filesystem.open(path, "rb"), pre_buffer=True)
