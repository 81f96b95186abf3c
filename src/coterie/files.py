"""Writing files so that a reader never meets half of one: to a temporary name beside the target, then renamed."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coterie.errors import RunError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path in the same folder, then rename that to ``path``.

    Raises:
        RunError: the disk is full or the folder cannot be written; ``path`` is then what it was before.
    """
    # Not by the process's number: two machines that share a folder may have the same.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) or "write" in str(error).lower():
            reason = getattr(error, "strerror", None) or "the disk may be full"
            raise RunError(f"cannot write {str(path)!r}: {reason}") from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one move."""
    write_atomically(path, lambda temporary: _write(temporary, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file in one move; numbers that are not finite are refused rather than written as non-JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
