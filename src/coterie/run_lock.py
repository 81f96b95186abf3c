"""The lock of a folder, a run's or a comparison's: one process at a time writes there, and whoever comes beside it is told who does.

The lock is the operating system's: it ends with its process, however that ends. Its file, ``.lock``, and ``.lock.json``, which says whose
it is, are removed when a training ends; what a kill leaves of them stands in nobody's way.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from coterie.errors import CoterieError
from coterie.run_folder import RunFolder

# Whoever only looks whether a lock is held holds it himself for an instant.
PATIENCE = 0.5


class RunLocked(CoterieError):
    """Another process works in this folder."""


class Lockable(Protocol):
    """A folder with a lock: a run's or a comparison's."""

    @property
    def path(self) -> Path: ...

    @property
    def lock(self) -> Path:
        """The lock's file, in the folder."""


@contextlib.contextmanager
def lock(folder: Lockable) -> Iterator[None]:
    """Hold the folder, which is made where it is missing, for one training or one comparison.

    Raises:
        RunLocked: another process does.
        CoterieError: the folder cannot be written.
    """
    held = FileLock(folder.lock, timeout=PATIENCE)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        held.acquire()
        _owner_file(folder).write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}), encoding="utf-8")
    except Timeout:
        raise RunLocked(
            f"{str(folder.path)!r} is being trained by {_owner(folder)}; wait for it, stop it, or choose another --output"
        ) from None
    except OSError as error:
        held.release()
        raise CoterieError(f"cannot write to {str(folder.path)!r}: {error.strerror}") from None
    place = os.stat(folder.path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(
                place, os.stat(folder.path)
            ):  # it may have been moved, and another one made in its place
                _owner_file(folder).unlink(missing_ok=True)
                folder.lock.unlink(missing_ok=True)
        held.release()


def holder(folder: Lockable) -> str | None:
    """Which process trains in this folder, in words; None where none does."""
    try:
        with folder.lock.open("rb") as file:  # to look takes no right to write
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except OSError:
        return _owner(folder)
    return None


def require_finished(folder: RunFolder) -> None:
    """A run's student and figures are all there once it is finished.

    Raises:
        CoterieError: it is not; the message says whether it is being trained, and otherwise how to go on with it.
    """
    summary = folder.read_summary()
    status = summary.get("status", "running")
    if status == "finished" and folder.student.is_file():
        return
    trains = holder(folder)
    go_on = f"go on with `coterie train --resume --output {folder}`"
    if trains is not None:
        state = f"is not finished: {trains} trains it"
    elif status == "running":
        state = f"is not finished: the process that trained it is gone; {go_on}"
    elif status == "finished":
        state = f"has no student; {go_on}"
    else:
        state = f"is not finished (status: {status}); {go_on}"
    raise CoterieError(f"the run {str(folder)!r} {state}")


def _owner_file(folder: Lockable) -> Path:
    return folder.lock.with_name(".lock.json")


def _owner(folder: Lockable) -> str:
    try:
        found = json.loads(_owner_file(folder).read_text(encoding="utf-8"))
        return f"process {int(found['pid'])} on {str(found['host'])[:64]!r}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def is_leftover(path: Path) -> bool:
    """Whether a file is what a process that was killed at a run's very start leaves."""
    return path.name in {".lock", ".lock.json"} or (path.name.startswith(".") and path.name.endswith(".tmp"))
