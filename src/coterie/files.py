"""Writing files so that a reader never meets half of one, and so that a disk that is full is named as such."""

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
        RunError: the disk is full or the folder cannot be written; ``path`` is then what it was before.
    """
    # Not by the process's number: two machines that share a folder may have the same.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # some libraries write files that none but their owner may read
        os.replace(temporary, path)
    except Exception as error:
        reason = reason_of(error, path.parent)  # before the half file makes room again
        _remove(temporary)
        if reason is None:
            raise
        raise RunError(f"cannot write {str(path)!r}: {reason}") from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    """What cannot be removed must not hide the error that is on its way."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


class _Stream(io.RawIOBase):
    """A file for torch's writer, which meets an error by another one of its own or ends the process: the error is kept for later."""

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
    """Have ``write`` fill a file from beginning to end, then move it to its place.

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
    """Why a file could not be written to ``folder``, in words; None where the error has nothing to do with files.

    Libraries report a disk that is full by errors of many kinds, some without a number. For these the disk is asked: call this
    before what was half-written is removed.
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
    """The number of the error that a file of some size meets in ``folder``."""
    path = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        path.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        return error.errno
    finally:
        _remove(path)
    return None


def usual_mode(folder: Path) -> int:
    """The mode that a new file gets in ``folder`` by the umask."""
    path = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        path.touch()
        return path.stat().st_mode & 0o777
    finally:
        _remove(path)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one move."""
    write_atomically(path, lambda temporary: _write(temporary, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file in one move; numbers that are not finite are refused rather than written as non-JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
