"""What the user sees while a run trains: a progress bar with a time estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from coterie.terminal import one_line


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(3725)
    '1 h 2 min'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Display:
    """Progress of one run.

    Args:
        steps: of the whole training.
        epochs: of the whole training.
        quiet: show nothing.
    """

    def __init__(self, steps: int, epochs: int, quiet: bool = False) -> None:
        self.steps, self.epochs, self.quiet = steps, epochs, quiet
        self.console = Console(stderr=True, quiet=quiet)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.first_step: int | None = None
        self.started = 0.0
        self.total_loss = float("nan")

    def __enter__(self) -> Display:
        self.started = time.perf_counter()
        if self.console.is_terminal and not self.quiet:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("training", total=self.steps)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def step(self, step: int) -> None:
        """``step`` optimizer steps are done."""
        if self.first_step is None:
            self.first_step = step - 1
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=step)
        self.last_step = step

    def losses(self, losses: dict[str, float]) -> None:
        self.total_loss = sum(losses.values())

    def note(self, text: str) -> None:
        """A line of its own, once."""
        self.console.print(one_line(text), highlight=False, markup=False, soft_wrap=True)

    def epoch(self, epoch: int, figures: dict[str, Any]) -> None:
        """One line for an epoch that was evaluated; ``figures`` is empty without a validation split."""
        parts = [f"epoch {epoch + 1}/{self.epochs}", f"loss {self.total_loss:.3f}"]
        if figures:
            students = figures["students"]
            parts.append(f"validation top-1 {figures['mean_student']['top1']:.2%}")
            if len(students) > 1:
                parts.append(f"ensemble {figures['ensemble']['method']['top1']:.2%}")
        if self.bar is None and self.first_step is not None and self.last_step > self.first_step:
            each = (time.perf_counter() - self.started) / (self.last_step - self.first_step)
            parts.append(f"{duration(each * (self.steps - self.last_step))} left")
        self.console.print("  ".join(parts), highlight=False, markup=False, soft_wrap=True)
