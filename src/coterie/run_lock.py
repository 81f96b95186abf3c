"""The lock of a run folder or comparison folder: one process at a time writes there, and the error of a second one names the first.

It is a lock of the operating system, which releases it when the process ends, for whatever reason. The files ``.lock`` and
``.lock.json``, which names the owner, are removed when training ends; those that a killed process leaves behind do not block the folder.
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

# Seconds to wait: a process that only checks whether the lock is held takes it for a moment.
PATIENCE = 0.5


class RunLocked(CoterieError):
    """Another process is working in this folder."""


class Lockable(Protocol):
    """A folder with a lock: of a run or of a comparison."""

    @property
    def path(self) -> Path: ...

    @property
    def lock(self) -> Path:
        """The lock's file, in the folder."""


@contextlib.contextmanager
def lock(folder: Lockable) -> Iterator[None]:
    """Lock the folder for one training or one comparison; creates the folder if it is missing.

    Raises:
        RunLocked: another process holds the lock.
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
    """Returns the process that trains in this folder, in words; None if there is none."""
    try:
        with folder.lock.open("rb") as file:  # needs no write permission
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except OSError:
        return _owner(folder)
    return None


def require_finished(folder: RunFolder) -> None:
    """Checks that a run is finished and its student exists.

    Raises:
        CoterieError: the run is not finished. The message says whether it is being trained, and otherwise how to resume it.
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
    """Whether a file is a leftover of a process that was killed right after a run started."""
    return path.name in {".lock", ".lock.json"} or (path.name.startswith(".") and path.name.endswith(".tmp"))
