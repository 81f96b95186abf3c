"""Handles SIGINT and SIGTERM: the step in progress is finished, a checkpoint is written, and the process ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

import torch
from accelerate import Accelerator


class Interruption:
    """Context that records the two signals instead of handling them; a second signal of the same kind takes effect at once.

    Outside the main thread, where Python cannot handle signals, it does nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def requested_signal(self, accelerator: Accelerator, at_once: bool = True) -> int:
        """Returns the received signal, or 0. Several processes must stop at the same step, so they agree only at logging steps (``at_once``)."""
        if accelerator.num_processes == 1:
            return self.signal or 0
        if not at_once:
            return 0
        flag = torch.tensor(self.signal or 0, device=accelerator.device)
        return int(accelerator.gather(flag).max())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._previous[number])  # type: ignore[arg-type]


class Interrupted(Exception):
    """A signal stopped the run after its checkpoint was written; ``exit_code`` is 130 or 143."""

    def __init__(self, number: int, path: str, advice: str | None = None) -> None:
        super().__init__(f"interrupted; {advice or f'`coterie train --resume --output {path}` goes on from here'}")
        self.number = number
        self.exit_code = 128 + number
