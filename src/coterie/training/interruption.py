"""SIGINT and SIGTERM: the step in progress is finished, then the run is put away and the process ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

import torch
from accelerate import Accelerator


class Interruption:
    """A context in which the two signals are noted instead of obeyed; a second one of a kind is obeyed at once.

    Outside the main thread, where Python cannot handle signals, it notes nothing.
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
        """The signal that came, or 0. Several processes must stop at the same step: they agree where rows are written (``at_once``)."""
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
    """A run was stopped by a signal after it was put away; ``exit_code`` is 130 or 143."""

    def __init__(self, number: int, path: str, advice: str | None = None) -> None:
        super().__init__(f"interrupted; {advice or f'`coterie train --resume --output {path}` goes on from here'}")
        self.number = number
        self.exit_code = 128 + number
