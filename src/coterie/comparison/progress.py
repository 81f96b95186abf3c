"""Progress display of a comparison: the state and result of every run, and the time left.

Everything is read from the comparison's folder, so it works whichever process on whichever machine trains a run.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coterie.comparison.folder import ComparisonFolder, Job, Plan
from coterie.errors import CoterieError
from coterie.metrics import primary
from coterie.run_folder import RunFolder
from coterie.run_schema import FinishedSummary, ValidationRow, validated
from coterie.tasks.figures import figures_of
from coterie.terminal import one_line
from coterie.training.display import can_move, duration, stderr_console

POLL_SECONDS = 1.0
TAIL = 2**16  # bytes at the end of metrics.jsonl that are read for its last rows
BAR_WIDTH = 30
Status = Literal["waiting", "running", "finished", "failed"]


@dataclass(frozen=True)
class State:
    """Progress of a run.

    Attributes:
        status: waiting, running, finished or failed.
        epochs: finished epochs, and their planned number.
        seconds: duration of a finished run.
        said: the result, or why it failed; for a running one its last validation figure.
        waits: what a running one waits for, if anything.
    """

    status: Status
    epochs: tuple[int, int] = (0, 1)
    seconds: float = 0.0
    said: str = ""
    waits: str = ""


def state_of(folder: ComparisonFolder, job: Job) -> State:
    """Reads the state of a run from its folder. Damaged files count as missing; the code that needs them reports them."""
    run, figure = RunFolder(folder.run(job)), figures_of(job.recipe.task)[0]
    if folder.failure(job).is_file():
        return State("failed", said=folder.failure(job).read_text(encoding="utf-8").strip())
    try:
        summary = run.read_summary()
        if summary.get("status") == "finished":
            took = validated(FinishedSummary, summary, run.summary, job.recipe.task).seconds
            seconds = max(took.total, took.training)  # after a resumption, the total counts only from there
            name, own = primary(summary, summary["leader"])
            return State(
                "finished",
                seconds=seconds,
                said=f"{summary['split']} {figure.label} of {name} {figure.show(own[figure.key])}",
            )
        row = _last_evaluation(run.metrics, job.recipe.task)
    except CoterieError:
        summary, row = {}, None
    try:
        waits_for = folder.marker(job).read_text(encoding="utf-8")
    except OSError:
        return State("waiting")
    epochs = max(1, summary.get("epochs", 1))
    if row is None or waits_for:
        return State("running", (0, epochs), said=waits_for, waits=waits_for)
    name, own = primary(row, summary.get("leader"))
    return State(
        "running", (min(epochs, row["epoch"] + 1), epochs), said=f"validation {figure.show(own[figure.key])} ({name})"
    )


def _last_evaluation(path: Path, task: str) -> dict[str, Any] | None:
    """Returns the last evaluation in ``metrics.jsonl``; None if there is none.

    Raises:
        CoterieError: the file is damaged.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:  # the first line is incomplete, or the last one is being written
            continue
        if isinstance(row, dict) and row.get("split") == "validation":
            validated(ValidationRow, row, path, task)
            return row
    return None


def seconds_left(jobs: Sequence[Job], states: Sequence[State]) -> float | None:
    """Estimates the time to the end of all runs from finished runs: those of the same arm, or all if there is none.

    Returns:
        Seconds; None if no run is finished.
    """
    took: dict[str, list[float]] = {}
    for job, state in zip(jobs, states, strict=True):
        if state.status == "finished":
            took.setdefault(job.label, []).append(state.seconds)
    every = [seconds for group in took.values() for seconds in group]
    if not every:
        return None
    work = 0.0
    for job, state in zip(jobs, states, strict=True):
        if state.status in {"waiting", "running"}:
            known = took.get(job.label, every)
            work += (1 - state.epochs[0] / state.epochs[1]) * sum(known) / len(known)
    return work / max(1, sum(state.status == "running" for state in states))


class ComparisonDisplay:
    """Follows a comparison in a separate thread and prints its progress: lines, and on a terminal the runs in progress below them.

    Args:
        folder: the comparison's folder.
        plan: the comparison's plan.
        quiet: show nothing.
    """

    def __init__(self, folder: ComparisonFolder, plan: Plan, quiet: bool) -> None:
        self.folder, self.jobs = folder, plan.jobs()
        self.console = stderr_console(quiet)
        self.quiet = quiet
        self.states = [state_of(folder, job) for job in self.jobs]
        self.notes: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._live = Live(console=self.console, auto_refresh=False, transient=True) if can_move(self.console) else None

    def __enter__(self) -> ComparisonDisplay:
        if not self.quiet:
            done = sum(state.status == "finished" for state in self.states)
            self._print(f"{len(self.jobs)} runs" + (f", {done} of them done before" if done else ""))
            if self._live is not None:
                self._live.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.quiet:
            return
        self._stop.set()
        self._thread.join()
        self.look()
        if self._live is not None:
            self._live.stop()

    def _follow(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self.look()

    def look(self) -> None:
        """Read the state of all runs, and print what has changed."""
        before, self.states = self.states, self._read()
        for number, (old, new) in enumerate(zip(before, self.states, strict=True)):
            if (new.status, new.waits) != (old.status, old.waits) and new.status != "waiting":
                self._print_state(number, new)
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)

    def _read(self) -> list[State]:
        return [
            old if old.status == "finished" else state_of(self.folder, job)
            for job, old in zip(self.jobs, self.states, strict=True)
        ]

    def _name(self, number: int) -> str:
        job = self.jobs[number]
        return one_line(f"run {number + 1} of {len(self.jobs)}: {job.label}, seed {job.seed}")

    def _print_state(self, number: int, state: State) -> None:
        if state.status == "failed":
            self._print(f"{self._name(number)} failed: {one_line(state.said)}")
            return
        if state.status == "running":
            if self._live is None:  # a live display shows it below
                self._print(self._name(number) + (f" waits: {one_line(state.waits)}" if state.waits else ""))
            return
        self._print(f"{self._name(number)}: {state.said}, {duration(state.seconds)}; {self._left()}")
        for note in RunFolder(self.folder.run(self.jobs[number])).read_summary().get("data_notes", []):
            if note not in self.notes:  # runs have the same data, and repeat the notes
                self.notes.add(note)
                self._print(one_line(note))

    def _left(self) -> str:
        undone = sum(state.status in {"waiting", "running"} for state in self.states)
        if not undone:
            return "all done"
        left = seconds_left(self.jobs, self.states)
        return f"{undone} to go" + (f", about {duration(left)}" if left is not None else "")

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def _picture(self) -> Group:
        """Returns the live display: the runs in progress, and the total progress."""
        runs = Table.grid(padding=(0, 2))
        for number, state in enumerate(self.states):
            if state.status == "running":
                done, epochs = state.epochs
                runs.add_row(
                    Text(self._name(number)), Text(f"epoch {min(done + 1, epochs)}/{epochs}"), Text(state.said)
                )
        ended = sum(state.status in {"finished", "failed"} for state in self.states)
        whole = Table.grid(padding=(0, 2))
        whole.add_row(
            Text(f"runs {ended}/{len(self.jobs)}"),
            ProgressBar(len(self.jobs), ended, width=BAR_WIDTH),
            Text(self._left()),
        )
        return Group(runs, whole)
