"""Writes files atomically, so that readers never see a partial file, and reports a full disk as such."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from coterie.errors import RunError

DISK_IS_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full (the quota is used up)",
    errno.EFBIG: "the disk is full (this process may not write larger files)",
}
PROBE_BYTES = 2**20


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path in the same folder, then rename that to ``path``, with the mode that the umask gives.

    Raises:
        RunError: the disk is full or the folder is not writable; ``path`` is then unchanged.
    """
    # Not named by process id: processes on two machines that share a folder may have the same one.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # some libraries write files that only their owner can read
        os.replace(temporary, path)
    except Exception as error:
        reason = reason_of(error, path.parent)  # before the partial file is removed, which frees space
        _remove(temporary)
        if reason is None:
            raise
        raise RunError(f"cannot write {str(path)!r}: {reason}") from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    """Removes a file. A failure is suppressed, so that it does not hide the error being raised."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


class _Stream(io.RawIOBase):
    """A file for torch's writer that keeps the first write error for later: torch would replace it by its own error or end the process."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def write_stream(path: Path, write: Callable[[io.RawIOBase], None]) -> None:
    """Have ``write`` fill a temporary file sequentially, then rename that to ``path``.

    Raises:
        RunError: as :func:`write_atomically`.
    """

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            stream = _Stream(file)
            write(stream)
            if stream.error is not None:
                raise stream.error

    write_atomically(path, fill)


def reason_of(error: BaseException, folder: Path) -> str | None:
    """Returns why a file could not be written to ``folder``, in words; None if the error has nothing to do with files.

    Libraries report a full disk by many kinds of errors, some without an errno. For these a probe file is written: call this
    before the partial file is removed.
    """
    if isinstance(error, RunError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):  # safetensors
        number = int(found.group(1))
    if not folder.is_dir():
        return "its folder is gone"
    if number is None or isinstance(error, FileNotFoundError):
        number = _probe(folder) or number
    if number is not None:
        return DISK_IS_FULL.get(number) or os.strerror(number)
    return str(error).splitlines()[0] if isinstance(error, OSError) and str(error) else None


def _probe(folder: Path) -> int | None:
    """Returns the errno of writing a file of ``PROBE_BYTES`` to ``folder``; None if that succeeds."""
    path = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        path.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        return error.errno
    finally:
        _remove(path)
    return None


def usual_mode(folder: Path) -> int:
    """Returns the mode that the umask gives a new file in ``folder``."""
    path = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        path.touch()
        return path.stat().st_mode & 0o777
    finally:
        _remove(path)


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    write_atomically(path, lambda temporary: _write(temporary, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically; numbers that are not finite raise a ValueError, because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
