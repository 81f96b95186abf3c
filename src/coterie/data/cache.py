"""What is kept outside the data between two starts: which files decode, a folder's statistics, downloads."""

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
    """COTERIE_CACHE, otherwise ~/.cache/coterie."""
    return Path(os.environ.get("COTERIE_CACHE") or Path.home() / ".cache" / "coterie")


def fingerprint(paths: Sequence[Path], purpose: str) -> str:
    """A digest of files' paths, sizes and times of change, and of what is to be kept of them.

    Raises:
        CoterieError: a file that is gone or whose folder cannot be read.
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
    """A key for what is to be kept of data in these states."""
    found = hashlib.blake2b(purpose.encode(), digest_size=16)
    for state in states:
        found.update(state)
    return found.hexdigest()


def remembered(kind: str, key: str, compute: Callable[[], Any]) -> Any:
    """``compute()``, a JSON value, or what it was when it was last computed for this key."""
    record = cache_folder() / kind / f"{key}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(record.read_text(encoding="utf-8"))
    value = compute()
    # A cache that cannot be written only costs time.
    with contextlib.suppress(OSError, RunError):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(value))
    return value


def remembered_arrays(kind: str, key: str, compute: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """As :func:`remembered`, of arrays by name."""
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
    with path.open("wb") as file:  # given a name, NumPy adds an extension
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes the names for options
