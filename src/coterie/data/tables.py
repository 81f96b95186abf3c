"""Tables that are computed once, part by part, stored in a file and memory-mapped, so that only what is read is in memory.

An interrupted computation's partial result is kept beside the file, and the next computation resumes it. If several processes need a table, one computes it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from coterie.errors import RunError
from coterie.files import reason_of, write_text

Table = NDArray[Any]


def read_table(path: Path, dtype: Any, shape: tuple[int, ...]) -> Table | None:
    """Returns a finished table, memory-mapped and read-only; None if there is none of this type and shape."""
    with contextlib.suppress(OSError, ValueError):
        found: Table = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.dtype == dtype and found.shape == shape:
            return found
    return None


def computed_table(
    path: Path, dtype: Any, shape: tuple[int, ...], parts: int, fill: Callable[[Table, int], None], what: str
) -> Table:
    """Reads a finished table, or computes it.

    Args:
        path: path of the .npy file; its name contains a digest of everything that the numbers depend on.
        dtype: type of the numbers.
        shape: shape of the table.
        parts: the parts of the computation; the progress is written to disk after each.
        fill: writes one part's rows into the table.
        what: name of the table in messages.

    Returns:
        The table, memory-mapped and read-only.

    Raises:
        RunError: the folder cannot be written, or has not enough space.
    """
    found = read_table(path, dtype, shape)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_beside(path, "lock")):
            found = read_table(path, dtype, shape)  # another process may have computed it in the meantime
            if found is None:
                _compute(path, dtype, shape, parts, fill, what)
    except OSError as error:
        reason = reason_of(error, path.parent)
        raise RunError(f"{what} cannot be kept in {str(path.parent)!r}: {reason}") from None
    _beside(path, "lock").unlink(missing_ok=True)  # waiting processes now find the table
    found = read_table(path, dtype, shape)
    if found is None:
        raise RunError(f"{what} cannot be read from {str(path)!r}")
    return found


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


def _compute(
    path: Path, dtype: Any, shape: tuple[int, ...], parts: int, fill: Callable[[Table, int], None], what: str
) -> None:
    partial, progress = _beside(path, "partial"), _beside(path, "json")
    done, table = _begun(partial, progress, dtype, shape, parts)
    if table is None:
        size, free = int(np.prod(shape)) * np.dtype(dtype).itemsize, shutil.disk_usage(path.parent).free
        if size > free:
            raise RunError(
                f"{what} take {shown_bytes(size)}, and {str(path.parent)!r} has {shown_bytes(free)} left; set COTERIE_CACHE to another folder"
            )
        progress.unlink(missing_ok=True)
        table = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
    for part in range(done, parts):
        fill(table, part)
        table.flush()
        write_text(progress, json.dumps({"done": part + 1, "parts": parts}))
    table.flush()
    del table
    partial.replace(path)
    progress.unlink(missing_ok=True)


def _begun(
    partial: Path, progress: Path, dtype: Any, shape: tuple[int, ...], parts: int
) -> tuple[int, np.memmap[Any, Any] | None]:
    """Returns how many parts an interrupted computation has finished, and its table."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads(progress.read_text(encoding="utf-8"))
        done = int(noted["done"])
        table = np.lib.format.open_memmap(partial, mode="r+")
        if table.dtype == dtype and table.shape == shape and noted["parts"] == parts and 0 < done <= parts:
            return done, table
    return 0, None


def shown_bytes(size: int) -> str:
    """Formats a number of bytes.

    >>> shown_bytes(1_500_000)
    '1.5 MB'
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1000:.1f} kB"
