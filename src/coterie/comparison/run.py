"""Running a comparison: what ``coterie compare`` does and ``coterie.compare`` returns."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coterie.comparison.claims import claim
from coterie.comparison.collect import collect
from coterie.comparison.plan import (
    ComparisonFolder,
    Job,
    Plan,
    RecipeSource,
    build_arms,
    keep_plan,
    make_plan,
    read_plan,
)
from coterie.errors import CoterieError, RunError
from coterie.files import write_text
from coterie.report.comparison import write_comparison_report
from coterie.training.interruption import Interrupted
from coterie.training.records import RunFolder
from coterie.training.run import train

POLL_SECONDS = 5.0
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
    recipes: Sequence[RecipeSource] | Mapping[str, RecipeSource] | str | Path = (),
    *,
    methods: Sequence[str] | None = None,
    seeds: int | Sequence[int] = 3,
    output: str | Path,
    reference: str | None = None,
    overrides: Sequence[str] = (),
    workers: int | Literal["auto"] = 1,
    quiet: bool = True,
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
        workers: trainings at once on this machine, each a process of its own; ``auto``: as many as cores (or, on a GPU, its memory) allow
            by the first run.
        quiet: show no progress of single runs.

    Raises:
        CoterieError: bad input; nothing has been trained then.
        RunError: runs failed; everything else is done and written.
    """
    if isinstance(recipes, (str, Path)):
        recipes = [recipes]
    folder = ComparisonFolder(output)
    plan = keep_plan(folder, make_plan(build_arms(recipes, methods, overrides), seeds, reference))
    attempted: set[tuple[str, int]] = set()
    if workers == "auto":
        work(folder, plan, quiet, attempted, limit=1)
        workers = _workers_that_fit()
    if workers > 1:
        _work_in_processes(folder, workers)
    work(folder, plan, quiet, attempted if workers == 1 else {(job.label, job.seed) for job in plan.jobs()})
    return conclude(folder, plan)


def write_again(folder: str | Path) -> Path:
    """Collect what there is of a comparison, finished or not, and write its report anew; where that is.

    Raises:
        CoterieError: the folder holds no comparison.
    """
    found = ComparisonFolder(folder)
    collect(found, read_plan(found))
    return write_comparison_report(found.path)


def conclude(folder: ComparisonFolder, plan: Plan) -> ComparisonResult:
    """Write what the comparison has found so far.

    Raises:
        RunError: runs failed.
    """
    comparison = collect(folder, plan)
    write_comparison_report(folder.path)
    failed = [run for run in comparison["runs"] if run["status"] == "failed"]
    if failed:
        names = ", ".join(f"{run['label']} seed {run['seed']}" for run in failed[:6])
        raise RunError(
            f"{len(failed)} run(s) failed: {names}; the first one: {failed[0].get('error', '')}\nreport  {folder.report}"
        )
    return ComparisonResult(folder.path, comparison)


def work(
    folder: ComparisonFolder, plan: Plan, quiet: bool, attempted: set[tuple[str, int]], limit: int | None = None
) -> None:
    """Do what is not done and not being done, until nothing is left; a job that failed is tried once a call.

    Args:
        attempted: jobs that are not tried (again) here; added to.
        limit: stop after so many trainings.
    """
    jobs, done = plan.jobs(), 0
    while True:
        waiting = False
        for job in jobs:
            key = (job.label, job.seed)
            if _is_finished(folder, job) or (key in attempted and not folder.claim(job).exists()):
                continue
            held = claim(folder.claim(job))
            if held is None:
                waiting = True
                continue
            with held:
                if _is_finished(folder, job) or key in attempted:
                    continue
                attempted.add(key)
                _train(folder, job, quiet)
            done += 1
            collect(folder, plan)
            if limit is not None and done >= limit:
                return
        if not waiting:
            return
        time.sleep(POLL_SECONDS)  # others are at work; one of them may die


def _is_finished(folder: ComparisonFolder, job: Job) -> bool:
    return RunFolder(folder.run(job)).read_summary().get("status") == "finished"


def _train(folder: ComparisonFolder, job: Job, quiet: bool) -> None:
    """Start a run, or go on with it; a failure is noted, an interruption is passed on."""
    run = RunFolder(folder.run(job))
    resume = run.last.is_file()
    if not resume and run.path.exists():
        shutil.rmtree(run.path)  # nothing to go on from
    folder.failure(job).unlink(missing_ok=True)
    if not quiet:
        print(f"{job.label}, seed {job.seed}", flush=True)
    try:
        train(job.recipe, output=run.path, resume=resume, quiet=quiet)
    except Interrupted as stop:
        raise Interrupted(stop.number, str(run.path), GO_ON) from None
    except Exception as error:
        write_text(folder.failure(job), " ".join(str(error).split())[:500] or type(error).__name__)


def _work_in_processes(folder: ComparisonFolder, workers: int) -> None:
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-m", "coterie.comparison.run", str(folder.path)]
    processes = [subprocess.Popen(command, env=environment) for _ in range(workers)]
    try:
        codes = [process.wait() for process in processes]
    except BaseException:
        for process in processes:  # each finishes its step, writes a checkpoint and ends
            process.terminate()
        for process in processes:
            process.wait()
        raise
    signals = [code for code in codes if code in (130, 143)]
    if signals:
        raise Interrupted(signals[0] - 128, str(folder.path), GO_ON)


def _workers_that_fit() -> int:
    """Trainings that fit at once, by what the first one took; at most one a core."""
    import torch

    cores = os.cpu_count() or 1
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        peak = max(1, torch.cuda.max_memory_reserved())
        return max(1, min(cores, 1 + int(0.9 * free / peak)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, int(0.6 * memory / max(1, peak))))


def main() -> None:
    """A worker process: ``python -m coterie.comparison.run FOLDER`` does what is left of a comparison."""
    folder = ComparisonFolder(sys.argv[1])
    try:
        work(folder, read_plan(folder), True, set())
    except Interrupted as stop:
        sys.exit(stop.exit_code)
    except (CoterieError, RunError) as error:
        with contextlib.suppress(OSError):
            print(f"coterie: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
