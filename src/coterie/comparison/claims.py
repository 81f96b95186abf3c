"""Claims: files by which processes, on one machine or on several with a shared folder, agree who does what.

A claim is made by creating a file that must not exist; its owner touches it while it works. One that was not touched for
long, or whose process on this machine is gone, is taken over: it is moved away, which only one process can do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 180.0


class Claim:
    """A claim that is held; a context manager that gives it back.

    Args:
        path: of the file, which this process has just created.
        owner: its content.
        heartbeat: seconds between two touches.
        when_lost: called at each of them from the moment that the claim is found to be another's.

    Attributes:
        lost: whether another process took over, because this one slept or did not reach the folder for too long.
    """

    def __init__(
        self,
        path: Path,
        owner: dict[str, Any],
        heartbeat: float = HEARTBEAT_SECONDS,
        when_lost: Callable[[], object] | None = None,
    ) -> None:
        self.path = path
        self.lost = False
        self._token = owner["token"]
        self._when_lost = when_lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(heartbeat,), daemon=True)
        self._thread.start()

    def _beat(self, every: float) -> None:
        while not self._stop.wait(every):
            with contextlib.suppress(OSError):  # the folder is out of reach; it may come back
                self.lost = self.lost or not self._is_ours()
                if not self.lost:
                    os.utime(self.path)
            if self.lost and self._when_lost is not None:
                self._when_lost()

    def _is_ours(self) -> bool:
        found = _content(self.path)
        return found is not None and found.get("token", self._token) == self._token

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if not self.lost and self._is_ours():
            self.path.unlink(missing_ok=True)


def claim(
    path: Path,
    *,
    stale_after: float = STALE_SECONDS,
    heartbeat: float = HEARTBEAT_SECONDS,
    when_lost: Callable[[], object] | None = None,
) -> Claim | None:
    """Try to claim; None where a living process holds it.

    Args:
        path: of the claim's file.
        stale_after: seconds without a touch after which the owner counts as dead.
        heartbeat, when_lost: see ``Claim``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processes": _process_space(),
        "token": uuid.uuid4().hex,
    }
    if not _create(path, owner):
        found = _content(path)
        if found is not None and not (_is_dead(path, found, stale_after) and _bury(path, found)):
            return None
        if not _create(path, owner):  # given back or buried, but another process was faster
            return None
    return Claim(path, owner, heartbeat, when_lost)


def wait_for(path: Path, every: float = 0.1) -> Claim:
    """Claim, however long another process holds it; for work of a moment."""
    while (held := claim(path)) is None:
        time.sleep(every)
    return held


def _create(path: Path, owner: dict[str, Any]) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(owner))
    return True


def _bury(path: Path, dead: dict[str, Any]) -> bool:
    """Move a dead process's claim away; whether it was this process that did."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except OSError:
        return False
    moved = _content(aside) or {}
    aside.unlink(missing_ok=True)
    if moved.get("token") == dead.get("token"):
        return True
    # Between our look and our move another process took over: it gets its claim back, unless a third one has it by now, in
    # which case the second one's heartbeat finds out.
    _create(path, moved)
    return False


def _content(path: Path) -> dict[str, Any] | None:
    """Owner of a claim, {} where it cannot be read (yet), None where there is no file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_dead(path: Path, owner: dict[str, Any], stale_after: float) -> bool:
    pid = owner.get("pid")
    if owner.get("processes") == _process_space() and isinstance(pid, int) and not _runs(pid):
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
    """Where a process number means the same process: this machine since it was started, and within it this container.

    Neither a host's name (many are called localhost) nor the number of its first name space (the same on all) tells machines apart.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no such file system
        return f"{socket.gethostname()} {uuid.getnode()}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
