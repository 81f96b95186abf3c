"""One training of a comparison, in whichever process and on whichever machine."""

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
DEATHS = 3  # of the process that does a job, after which the job has failed
GO_ON = "the same command goes on from here"


def train_job(folder: ComparisonFolder, job: Job) -> None:
    """Start a run, or go on with it from its checkpoint; a failure is noted, an interruption is passed on.

    Where another process trains in the run's folder (one that was started by hand, or that a dead comparison left), it is waited for; the
    marker says so.

    Raises:
        Interrupted: a signal came, and the run was put away.
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
        shutil.rmtree(run.path)  # a kill came before anything of worth was written
    try:
        train(job.recipe, output=run.path, resume=run.is_run, quiet=True)
    except Interrupted as stop:
        raise Interrupted(stop.number, str(run.path), GO_ON) from None
    except RunLocked:
        raise
    except Exception as error:
        note_failure(folder, job, " ".join(str(error).split()) or type(error).__name__)


def _wait(folder: ComparisonFolder) -> None:
    """A moment, that a signal ends."""
    with Interruption() as interruption:
        time.sleep(POLL_SECONDS)
    if interruption.signal is not None:
        raise Interrupted(interruption.signal, str(folder.path), GO_ON)


def note_failure(folder: ComparisonFolder, job: Job, reason: str) -> None:
    """Keep why a job failed, where every later look finds it."""
    folder.failure(job).parent.mkdir(parents=True, exist_ok=True)
    write_text(folder.failure(job), reason[:500])
