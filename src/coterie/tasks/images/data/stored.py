"""Storage of encoded images: the protocol, and images in single files. Archives implement the protocol in other modules."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from coterie.data.arrays import Labels
from coterie.data.decoding import open_file
from coterie.data.order import Shards
from coterie.data.shared import NameList, Names, SharedArray
from coterie.errors import CoterieError

READ_ONLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # opening a pipe would otherwise wait for ever


class Stored(Protocol):
    """Encoded images by index. Objects are immutable, and cheap to send to other processes."""

    def __len__(self) -> int: ...

    def take(self, indices: Labels) -> Self: ...

    def open(self, number: int) -> IO[bytes]:
        """Opens an image's bytes.

        Raises:
            UnreadableImage, OSError: the image does not exist any more.
        """
        ...

    def head(self, number: int, count: int) -> bytes:
        """Reads the first ``count`` bytes, or all of a shorter image; a file that is not regular may give fewer.

        Raises:
            OSError: as :meth:`open`.
        """
        ...

    def name(self, number: int) -> str:
        """Returns the image's name in messages."""
        ...

    def base_name(self, number: int) -> bytes:
        """Returns the image's name without the path of its folder or archive."""
        ...

    @property
    def place(self) -> str:
        """The location of the first image, as named in messages."""
        ...

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Size of each image in bytes."""
        ...

    @property
    def shards(self) -> Shards | None:
        """The archive of each image, if images are best read in sequence; None: each is a separate file."""
        ...

    def sample(self, count: int) -> Labels:
        """Returns the numbers of up to ``count`` images from all over the data that are fast to read."""
        ...

    def state(self) -> bytes:
        """Returns a digest that changes if an image is added, removed, renamed or rewritten.

        Raises:
            CoterieError: a file is missing, or its folder cannot be read.
        """
        ...


class ImagePaths:
    """Images in single files; 1,000,000 of them take about 50 MB.

    Args:
        folders: paths of the folders.
        folder_numbers: int32 [N], index of each file's folder.
        names: names of the N files.
        rows: int32 [n], the selected files, in order; None: all.
    """

    def __init__(
        self, folders: Names, folder_numbers: SharedArray, names: Names, rows: SharedArray | None = None
    ) -> None:
        self.folders, self.folder_numbers, self.names = folders, folder_numbers, names
        self.rows = SharedArray(np.arange(len(names), dtype=np.int32)) if rows is None else rows
        self._folder = -1, ""

    @classmethod
    def of(cls, paths: Iterable[str | Path]) -> ImagePaths:
        listing = PathList()
        for path in paths:
            listing.add(*os.path.split(path))
        return listing.paths()

    def __reduce__(self) -> tuple[Any, ...]:
        return ImagePaths, (self.folders, self.folder_numbers, self.names, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Labels) -> ImagePaths:
        taken = ImagePaths(self.folders, self.folder_numbers, self.names, SharedArray(self.rows.array[indices]))
        if "_status" in self.__dict__:  # avoids another stat of each file
            taken.__dict__["_status"] = tuple(each[indices] for each in self._status)
        return taken

    def name(self, number: int) -> str:
        row = self.rows.array.item(number)
        folder = self.folder_numbers.array.item(row)
        last = self._folder
        if folder != last[0]:  # cached, because files of one folder follow one another
            last = self._folder = folder, os.path.join(os.fsdecode(self.folders[folder]), "")
        return last[1] + os.fsdecode(self.names[row])

    def base_name(self, number: int) -> bytes:
        return self.names[self.rows.array.item(number)]

    def head(self, number: int, count: int) -> bytes:
        file = os.open(self.name(number), READ_ONLY)
        try:
            return os.read(file, count)
        finally:
            os.close(file)

    def open(self, number: int) -> IO[bytes]:
        return open_file(self.name(number))

    @property
    def place(self) -> str:
        return os.path.dirname(self.name(0))

    @cached_property
    def _status(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sizes in bytes and modification times in nanoseconds, int64 [n] each."""
        sizes, times = np.empty((2, len(self)), dtype=np.int64)
        for number in range(len(self)):
            path = self.name(number)
            try:
                status = os.stat(path)
            except OSError as error:
                raise CoterieError(f"cannot read {path!r}: {error.strerror}") from None
            sizes[number], times[number] = status.st_size, status.st_mtime_ns
        return sizes, times

    @property
    def sizes(self) -> NDArray[np.int64]:
        return self._status[0]

    shards = None

    def sample(self, count: int) -> Labels:
        return evenly(len(self), count)

    def state(self) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        sizes, times = self._status
        rows = self.rows.array
        folders = [os.path.abspath(os.fsdecode(self.folders[number])) for number in range(len(self.folders))]
        digest.update(repr([os.fsencode(folder) for folder in folders]).encode())
        for each in (self.names.letters, self.names.bounds, self.folder_numbers):
            digest.update(each.array.data)
        for numbers in (rows, sizes, times):
            digest.update(np.ascontiguousarray(numbers).data)
        return digest.digest()


class PathList:
    """Collects paths for :class:`ImagePaths`."""

    def __init__(self) -> None:
        self._folders, self._names = NameList(), NameList()
        self._numbers = array("i")
        self._last: str | None = None

    def __len__(self) -> int:
        return len(self._names)

    def add(self, folder: str, name: str) -> None:
        if folder != self._last:
            self._folders.add(os.fsencode(folder))
            self._last = folder
        self._names.add(os.fsencode(name))
        self._numbers.append(len(self._folders) - 1)

    def paths(self) -> ImagePaths:
        """Returns the collected paths."""
        numbers = SharedArray(np.frombuffer(self._numbers, dtype=np.int32) if self._numbers else np.empty(0, np.int32))
        return ImagePaths(self._folders.names(), numbers, self._names.names())


def evenly(total: int, count: int) -> Labels:
    """Returns up to ``count`` evenly spaced numbers below ``total``."""
    return np.arange(0, total, -(-total // count))


def file_state(path: str, filesystem: Any = None) -> bytes:
    """Returns what changes if a file is rewritten: path, size and modification time, or what its filesystem says.

    Raises:
        CoterieError: the file is missing or cannot be read.
    """
    if filesystem is not None:
        return os.fsencode(f"{path}|{filesystem.ukey(path)}\n")
    try:
        status = os.stat(path)
    except OSError as error:
        raise CoterieError(f"cannot read {path!r}: {error.strerror}") from None
    return os.fsencode(f"{os.path.abspath(path)}|{status.st_size}|{status.st_mtime_ns}\n")
