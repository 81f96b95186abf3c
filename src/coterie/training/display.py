"""Progress display of a run: a live progress bar on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from coterie.metrics import own_ensemble, primary
from coterie.tasks.figures import Figure
from coterie.terminal import one_line

REFRESH_SECONDS = 0.2  # between two updates of the progress bar
BAR_WIDTH = 12


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


def stderr_console(quiet: bool = False) -> Console:
    """Returns the console for progress: standard error, or plain text on standard output in a notebook without ipywidgets."""
    console = Console(stderr=True, quiet=quiet)
    if console.is_jupyter and importlib.util.find_spec("ipywidgets") is None:
        return Console(file=sys.stdout, force_jupyter=False, quiet=quiet)
    return console


def can_move(console: Console) -> bool:
    """Whether the console can redraw a line in place."""
    return not console.quiet and (console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal))


class Display:
    """Progress of one run.

    Args:
        steps: number of optimizer steps of the whole training.
        epochs: number of epochs of the whole training.
        quiet: show nothing.
        samples: number of training samples in an epoch.
        sample: what a sample is called.
    """

    def __init__(self, steps: int, epochs: int, quiet: bool = False, samples: int = 0, sample: str = "image") -> None:
        self.steps, self.epochs, self.quiet = steps, epochs, quiet
        self.samples_per_step, self.sample = samples * epochs / steps, sample
        self.console = stderr_console(quiet)
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.started = self.epoch_started = self.refreshed = 0.0
        self.first_step: int | None = None  # steps done before this process's first one
        self.last_step = self.epoch_first_step = 0
        self.loss = self.short_loss = ""

    def __enter__(self) -> Display:
        self.started = self.epoch_started = time.perf_counter()
        if can_move(self.console):
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(BAR_WIDTH),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
                transient=True,
                refresh_per_second=1 / REFRESH_SECONDS,
            )
            self.task = self.bar.add_task(f"epoch 1/{self.epochs}", total=self.steps, figures="")
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def step(self, step: int) -> None:
        """Note that ``step`` optimizer steps are done."""
        if self.first_step is None:
            self.first_step = self.epoch_first_step = step - 1
        self.last_step = step
        if self.bar is not None and time.perf_counter() - self.refreshed > REFRESH_SECONDS:
            self._refresh()

    def _refresh(self) -> None:
        if self.bar is None or self.first_step is None:
            return
        self.refreshed = time.perf_counter()
        rate = (self.last_step - self.epoch_first_step) / max(1e-9, self.refreshed - self.epoch_started)
        figures = []
        if rate and self.samples_per_step:
            figures.append(f"{rate * self.samples_per_step:,.0f} {self.sample}s/s")
        figures += [each for each in (self._left(), self.short_loss) if each]
        epoch = min(self.epochs, (self.last_step - 1) * self.epochs // self.steps + 1)
        self.bar.update(
            self.task,
            completed=self.last_step,
            description=f"epoch {epoch}/{self.epochs}",
            figures="  ".join(figures),
        )

    def _left(self) -> str:
        """Returns the estimated time left, from the mean time of a step so far, evaluations included; empty before the second step."""
        if self.first_step is None or self.last_step <= self.first_step:
            return ""
        each = (time.perf_counter() - self.started) / (self.last_step - self.first_step)
        return f"{duration(each * (self.steps - self.last_step))} left"

    def losses(self, losses: dict[str, float], label_factor: float) -> None:
        """Set the losses to show.

        Args:
            losses: mean of each term over the last steps, by name.
            label_factor: by how much the term ``label`` exceeds one student's loss against the labels, see ``Method.label_factor``.
        """
        total = sum(losses.values())
        if label_factor and "label" in losses:
            label = losses["label"] / label_factor
            self.loss = self.short_loss = f"label loss {label:.3f}"
            if len(losses) > 1 or label_factor != 1:
                self.loss += f" (sum of all terms {total:.4g})"
        else:
            self.loss = f"sum of all loss terms {total:.4g}"
            self.short_loss = f"loss {total:.4g}"

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(one_line(text), highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines that are already laid out."""
        for line in lines:
            self.note(line)

    def epoch(self, epoch: int, said: str = "") -> None:
        """Print the result of an epoch after its evaluation: one line, or several on a terminal that is too narrow for one.

        Args:
            epoch: its number, from 0.
            said: text about its evaluation, see :func:`describe_figures`; empty without one.
        """
        heading = f"epoch {epoch + 1}/{self.epochs}  "
        parts = [self.loss] if self.loss else []
        if said:
            parts.append(said)
        if self.bar is None and (left := self._left()):
            parts.append(left)
        line = heading + "  ".join(parts)
        if self.console.is_terminal and len(line) > self.console.width:
            line = heading + ("\n" + " " * len(heading)).join(parts)
        for each in line.split("\n"):
            self.note(each)
        self.epoch_started, self.epoch_first_step = time.perf_counter(), self.last_step


def describe_figures(figures: Mapping[str, Any], leader: int | None, figure: Figure) -> str:
    """Describes an evaluation in a line.

    Args:
        figures: figures on the validation split.
        leader: index of the method's leader student.
        figure: the task's primary figure.
    """
    name, own = primary(figures, leader)
    said = f"validation {figure.label} of {name} {figure.show(own[figure.key])}"
    if ensemble := own_ensemble(figures):
        said += f", of the ensemble {figure.show(ensemble[figure.key])}"
    return said
