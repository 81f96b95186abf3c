"""Cache between runs: which files can be decoded, a folder's statistics, downloads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError, RunError
from coterie.files import write_atomically, write_text


def cache_folder() -> Path:
    """Returns the cache folder: COTERIE_CACHE, otherwise ~/.cache/coterie."""
    return Path(os.environ.get("COTERIE_CACHE") or Path.home() / ".cache" / "coterie")


def fingerprint(paths: Sequence[Path], purpose: str) -> str:
    """Returns a digest of files' paths, sizes and modification times, and of the purpose of the cache entry.

    Raises:
        CoterieError: a file that is missing or whose folder cannot be read.
    """
    digest = hashlib.blake2b(purpose.encode(), digest_size=16)
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise CoterieError(f"cannot read {str(path)!r}: {error.strerror}") from None
        digest.update(os.fsencode(f"{os.path.abspath(path)}|{status.st_size}|{status.st_mtime_ns}\n"))
    return digest.hexdigest()


def digest(purpose: str, *states: bytes) -> str:
    """Returns a cache key for a purpose and these states of the data."""
    found = hashlib.blake2b(purpose.encode(), digest_size=16)
    for state in states:
        found.update(state)
    return found.hexdigest()


def remembered(kind: str, key: str, compute: Callable[[], Any]) -> Any:
    """Returns ``compute()``, a JSON value, or the cached value for this key."""
    record = cache_folder() / kind / f"{key}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(record.read_text(encoding="utf-8"))
    value = compute()
    # If the cache cannot be written, the value is only computed again next time.
    with contextlib.suppress(OSError, RunError):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(value))
    return value


def remembered_arrays(kind: str, key: str, compute: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Like :func:`remembered`, for arrays by name."""
    record = cache_folder() / kind / f"{key}.npz"
    with (
        contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile),
        np.load(record, allow_pickle=False) as kept,
    ):
        return {name: kept[name] for name in kept.files}
    value = compute()
    with contextlib.suppress(OSError, RunError):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, lambda temporary: _save(temporary, value))
    return value


def _save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with path.open("wb") as file:  # for a path, NumPy would add an extension
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub mistakes the names for options
