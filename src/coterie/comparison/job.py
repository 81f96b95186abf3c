"""One training of a comparison, in any process on any machine."""

from __future__ import annotations

import shutil
import time

from coterie.comparison.folder import ComparisonFolder, Job
from coterie.files import write_text
from coterie.run_folder import RunFolder
from coterie.run_lock import RunLocked, holder
from coterie.running.train import train
from coterie.training.interruption import Interrupted, Interruption

POLL_SECONDS = 1.0
DEATHS = 3  # a job has failed after its process died this many times
GO_ON = "the same command goes on from here"


def train_job(folder: ComparisonFolder, job: Job) -> None:
    """Start a run, or resume it from its checkpoint; a failure is recorded, an interruption is re-raised.

    If another process trains in the run folder (started by hand, or left by a dead comparison), this waits for it, and the marker says so.

    Raises:
        Interrupted: a signal was received; the run's checkpoint is written.
    """
    marker = folder.marker(job)
    marker.parent.mkdir(parents=True, exist_ok=True)
    write_text(marker, "")
    try:
        while not folder.is_done(job):
            try:
                _train(folder, job)
            except RunLocked as locked:
                write_text(marker, str(locked))
                _wait(folder)
    finally:
        marker.unlink(missing_ok=True)


def _train(folder: ComparisonFolder, job: Job) -> None:
    run = RunFolder(folder.run(job))
    if not run.is_run and run.path.exists() and holder(run) is None:
        shutil.rmtree(run.path)  # left by a process that was killed before it wrote the recipe
    try:
        train(job.recipe, output=run.path, resume=run.is_run, quiet=True)
    except Interrupted as stop:
        raise Interrupted(stop.number, str(run.path), GO_ON) from None
    except RunLocked:
        raise
    except Exception as error:
        note_failure(folder, job, " ".join(str(error).split()) or type(error).__name__)


def _wait(folder: ComparisonFolder) -> None:
    """Sleeps for a moment; a signal raises Interrupted."""
    with Interruption() as interruption:
        time.sleep(POLL_SECONDS)
    if interruption.signal is not None:
        raise Interrupted(interruption.signal, str(folder.path), GO_ON)


def note_failure(folder: ComparisonFolder, job: Job, reason: str) -> None:
    """Write why a job failed to its failure file."""
    folder.failure(job).parent.mkdir(parents=True, exist_ok=True)
    write_text(folder.failure(job), reason[:500])
