"""Running a comparison: what ``coterie compare`` does and ``coterie.compare`` returns."""

from __future__ import annotations

import _thread
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from coterie.comparison.claims import Claim, claim
from coterie.comparison.collect import collect
from coterie.comparison.folder import ComparisonFolder, Job, Plan
from coterie.comparison.plan import (
    RecipeSource,
    build_arms,
    keep_plan,
    make_plan,
    read_plan,
)
from coterie.comparison.progress import ComparisonDisplay
from coterie.errors import CoterieError, RunError
from coterie.files import write_text
from coterie.recipe import Recipe
from coterie.report.comparison import write_comparison_report
from coterie.run_folder import RunFolder
from coterie.run_lock import RunLocked
from coterie.running.accelerator import require_trackers
from coterie.running.train import train
from coterie.terminal import error_message
from coterie.training.interruption import Interrupted, Interruption

POLL_SECONDS = 2.0
CUDA_CONTEXT = 2**30  # bytes that a process takes on a GPU besides its tensors
GO_ON = "the same command goes on from here"


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison as far as it went.

    Attributes:
        path: its folder.
        comparison: contents of comparison.json.
    """

    path: Path
    comparison: dict[str, Any]


def compare(
    recipes: Sequence[RecipeSource] | Mapping[str, RecipeSource] | str | Path | Recipe = (),
    *,
    methods: Sequence[str] | None = None,
    seeds: int | Sequence[int] = 3,
    output: str | Path,
    reference: str | None = None,
    overrides: Sequence[str] = (),
    workers: int | Literal["auto"] = 1,
    quiet: bool = True,
    trust_code: bool = False,
) -> ComparisonResult:
    """Train every arm with every seed, as far as that is not done yet, and write tables, figures and a report.

    Rounds of one seed for every arm. The same call goes on where it was stopped, and may run on several machines at once that
    share the folder: each run is done once. A run that fails is noted, and the others go on.

    Args:
        recipes: a recipe, several, or a mapping label -> recipe.
        methods: names that every recipe is run with; None: the recipes' own.
        seeds: how many, from 0; or which.
        output: the comparison's folder, new or with the same comparison; further arms and seeds extend it.
        reference: label of the arm that the others are compared with; None: the first one whose method is ``baseline``, else the first.
        overrides: ``key=value`` for all arms.
        workers: trainings at once on this machine, each a process of its own; ``auto``: as many as fit by what the first run took, on a
            GPU the first run of every arm.
        quiet: show no progress.
        trust_code: whether recipe files and the folder's plan may name methods by ``package.module:Class``.

    Raises:
        CoterieError: bad input; nothing has been trained then.
        RunError: runs failed; everything else is done and written.
    """
    if isinstance(recipes, (str, Path, Recipe)):
        recipes = [recipes]
    folder = ComparisonFolder(output)
    asked = make_plan(build_arms(recipes, methods, overrides, trust_code), seeds)
    for arm in asked.arms.values():
        require_trackers(arm)
    plan = keep_plan(folder, asked, reference, trust_code=trust_code)
    for job in plan.jobs():  # what failed is tried once more by every call
        folder.failure(job).unlink(missing_ok=True)
    with ComparisonDisplay(folder, plan, quiet):
        if workers == "auto":
            work(folder, plan, limit=len(plan.arms) if torch.cuda.is_available() else 1)
            workers = workers_that_fit()
        if workers > 1 and not all(_is_done(folder, job) for job in plan.jobs()):
            _work_in_processes(folder, workers)
        work(folder, plan)  # with several processes there is nothing left, unless all of them were killed
    return conclude(folder)


def write_again(folder: str | Path) -> Path:
    """Collect what there is of a comparison, finished or not, and write its report anew; where that is.

    Raises:
        CoterieError: the folder holds no comparison.
    """
    found = ComparisonFolder(folder)
    collect(found)
    return write_comparison_report(found.path)


def conclude(folder: ComparisonFolder) -> ComparisonResult:
    """Write what the comparison has found so far.

    Raises:
        RunError: runs failed.
    """
    comparison = collect(folder)
    write_comparison_report(folder.path)
    failed = [run for run in comparison["runs"] if run["status"] == "failed"]
    if failed:
        names = ", ".join(f"{run['label']} seed {run['seed']}" for run in failed)
        raise RunError(
            f"{len(failed)} run(s) failed: {names}; the first one: {failed[0].get('error', '')}\nreport  {folder.report}"
        )
    return ComparisonResult(folder.path, comparison)


def work(folder: ComparisonFolder, plan: Plan, limit: int | None = None) -> None:
    """Do what is neither done nor being done, until nothing is left of the plan. Nothing is printed: that is :class:`ComparisonDisplay`'s work.

    Args:
        folder: of the comparison.
        plan: what it consists of.
        limit: stop after so many trainings.

    Raises:
        Interrupted: a signal came; the run in progress was put away.
    """
    trained = 0
    while True:
        is_waiting = False
        for job in plan.jobs():
            if _is_done(folder, job):
                continue
            held = claim(folder.claim(job), when_lost=_stop_training)
            if held is None:
                is_waiting = True
                continue
            with held:
                if _is_done(folder, job):
                    continue
                try:
                    _train(folder, job, held)
                except RunLocked:  # somebody goes on with this run by itself
                    is_waiting = True
                    continue
            is_waiting = is_waiting or held.lost
            trained += 1
            collect(folder)
            if limit is not None and trained >= limit:
                return
        if not is_waiting:
            return
        time.sleep(POLL_SECONDS)  # others are at work; one of them may die


def _is_done(folder: ComparisonFolder, job: Job) -> bool:
    """Whether a run is finished, or failed in this call or in another one that is going on."""
    return folder.failure(job).is_file() or RunFolder(folder.run(job)).read_summary().get("status") == "finished"


def _stop_training() -> None:
    """Have the training stop at its next step as if by a signal; where none is under way that would note it, do nothing."""
    if isinstance(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), Interruption):
        _thread.interrupt_main(signal.SIGTERM)


def _train(folder: ComparisonFolder, job: Job, held: Claim) -> None:
    """Start a run, or go on with it; a failure is noted, an interruption is passed on."""
    run = RunFolder(folder.run(job))
    if not run.is_run and run.path.exists():
        shutil.rmtree(run.path)  # a kill came before anything of worth was written
    try:
        train(job.recipe, output=run.path, resume=run.is_run, quiet=True)
    except Interrupted as stop:
        if not held.lost:
            raise Interrupted(stop.number, str(run.path), GO_ON) from None
    except RunLocked:
        raise
    except Exception as error:
        if held.lost:  # two were at work in one folder, which says nothing of the run
            return
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        write_text(folder.failure(job), reason)


def _cores() -> int:
    """Cores that this process may use, which in a container or under a batch system are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work_in_processes(folder: ComparisonFolder, workers: int) -> None:
    threads = str(max(1, _cores() // workers))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    # The user's own methods are found where this process finds them, and in the same order (-P: the working folder not first).
    environment["PYTHONPATH"] = os.pathsep.join(place or os.getcwd() for place in sys.path)
    command = [sys.executable, "-P", "-m", "coterie.comparison.run", str(folder.path)]
    with Interruption() as interruption:
        processes = [subprocess.Popen(command, env=environment) for _ in range(workers)]
        try:
            while interruption.signal is None and any(process.poll() is None for process in processes):
                time.sleep(0.2)
        finally:
            for process in processes:  # each finishes its step, writes a checkpoint and ends
                process.terminate()
            for process in processes:
                process.wait()
    codes = {process.returncode for process in processes}
    signals = [number for number in (signal.SIGINT, signal.SIGTERM) if 128 + number in codes]
    if interruption.signal is not None or signals:
        raise Interrupted(interruption.signal or signals[0], str(folder.path), GO_ON)


def workers_that_fit() -> int:
    """Trainings that fit at once, by what those of this process took: at most one a core, on a GPU as many as its memory holds."""
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    if peak:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        fit = 0.9 * free / (peak + CUDA_CONTEXT)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        fit = 0.6 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / peak
    return max(1, min(_cores(), int(fit)))


def main() -> None:
    """A worker process: ``python -m coterie.comparison.run FOLDER`` does what is left of a comparison."""
    folder = ComparisonFolder(sys.argv[1])
    try:
        work(folder, read_plan(folder))
    except Interrupted as stop:
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (CoterieError, RunError) as error:
        print(error_message(f"coterie: {error}"), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
