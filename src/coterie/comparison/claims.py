"""Claims: files by which processes, on one machine or on several with a shared folder, agree who does what.

A claim is made by creating a file that must not exist; its owner touches it while it works. One that was not touched for
long, or whose process on this machine is gone, is taken over: it is moved away, which only one process can do.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from pathlib import Path
from types import TracebackType

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 180.0


class Claim:
    """A claim that is held; a context manager that gives it back.

    Args:
        path: of the file, which this process has just created.
        heartbeat: seconds between two touches.
    """

    def __init__(self, path: Path, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self.path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(heartbeat,), daemon=True)
        self._thread.start()

    def _beat(self, every: float) -> None:
        while not self._stop.wait(every):
            try:
                os.utime(self.path)
            except OSError:  # the folder is gone, or another process judged this one dead: nothing to keep alive
                return

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)


def claim(path: Path, stale_after: float = STALE_SECONDS) -> Claim | None:
    """Try to claim; None where a living process holds it.

    Args:
        path: of the claim's file.
        stale_after: seconds without a touch after which the owner counts as dead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if (made := _create(path)) is not None:
        return made
    before = _content(path)
    if before is None:  # given back in between
        return _create(path)
    if not _is_dead(path, before, stale_after):
        return None
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except OSError:
        return None  # another process was faster
    taken = _content(aside)
    if taken is not None and taken.get("token") != before.get("token"):
        # Between our look and the move, another process took it over: give that one its claim back.
        os.rename(aside, path)
        return None
    aside.unlink(missing_ok=True)
    return _create(path)


def _create(path: Path) -> Claim | None:
    owner = {"host": _process_space(), "pid": os.getpid(), "token": uuid.uuid4().hex}
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return None
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(owner))
    return Claim(path)


def _content(path: Path) -> dict[str, object] | None:
    """Owner of a claim, {} where it cannot be read (yet), None where there is no file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_dead(path: Path, owner: dict[str, object], stale_after: float) -> bool:
    pid = owner.get("pid")
    if owner.get("host") == _process_space() and isinstance(pid, int) and not _runs(pid):
        return True
    # Machines' clocks differ, so the age is measured by the file system's own: against a file touched now.
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime > stale_after
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def _process_space() -> str:
    """Where a process number means the same process: this machine, and within it this container."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no such file system
        return socket.gethostname()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
