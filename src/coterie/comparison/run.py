"""Runs a comparison: the implementation of ``coterie compare`` and ``coterie.compare``."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from coterie.comparison.arms import RecipeSource, build_arms, sweep_arms
from coterie.comparison.cluster import require_cluster, train_on_cluster
from coterie.comparison.collect import collect
from coterie.comparison.folder import ComparisonFolder, Plan
from coterie.comparison.job import train_job
from coterie.comparison.plan import keep_plan, make_plan, require_place
from coterie.comparison.progress import ComparisonDisplay
from coterie.comparison.workers import Workers, cores, devices
from coterie.errors import RunError
from coterie.recipe import Recipe
from coterie.report.comparison import write_comparison_report
from coterie.run_lock import lock
from coterie.running.accelerator import require_trackers

CUDA_CONTEXT = 2**30  # bytes that a process uses on a GPU in addition to its tensors


@dataclass(frozen=True)
class ComparisonResult:
    """The result of a comparison.

    Attributes:
        path: the comparison's folder.
        comparison: content of comparison.json.
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
    sweep: Mapping[str, Sequence[Any]] | None = None,
    workers: int | Literal["auto"] = 1,
    cluster: str | None = None,
    cpus_per_run: float = 1.0,
    gpus_per_run: float | None = None,
    quiet: bool = True,
    trust_code: bool = False,
) -> ComparisonResult:
    """Train every arm with every seed, except runs that are done, and write tables, figures and a report.

    Runs are ordered by seed, then by arm. The same call resumes an interrupted comparison. If a run fails, its error is recorded and the others continue.

    Args:
        recipes: a recipe, several, or a mapping label -> recipe.
        methods: names of the methods that every recipe is run with; None: the recipes' own.
        seeds: the number of seeds, from 0; or the seeds themselves.
        output: the comparison's folder, new or with the same comparison; further arms and seeds extend it.
        reference: label of the arm that the others are compared with; None: the first one whose method is ``baseline``, else the first.
        overrides: ``key=value`` for all arms.
        sweep: settings with the values to try, ``{"method.diversity_weight": [0.1, 1, 10]}``: every combination is an arm. A method's setting applies to the
            methods that have it. These runs evaluate the validation split only, so that the test split is not used for selection.
        workers: number of simultaneous trainings on this machine, each in its own process; ``auto``: as many as fit, by the memory of the first run,
            on a GPU of the first run of every arm.
        cluster: train on a Ray cluster instead of this machine's workers: the address of its head, ``auto`` for the cluster of this machine,
            ``local`` for a cluster of this machine alone. All nodes must share the folder.
        cpus_per_run, gpus_per_run: resources that Ray reserves for one run; 0.25 GPUs: four runs on one. None: one GPU if the cluster has any and a run may
            use it.
        quiet: show no progress.
        trust_code: whether recipe files and the folder's plan may name methods by ``package.module:Class``.

    Raises:
        CoterieError: the input is invalid, or another process is working in the folder; nothing has been trained then.
        Interrupted: a signal was received; checkpoints of runs in progress are written.
        RunError: runs failed; all others are done and written.
    """
    if isinstance(recipes, (str, Path, Recipe)):
        recipes = [recipes]
    folder = ComparisonFolder(output)
    arms = build_arms(recipes, methods, overrides, trust_code)
    if sweep:
        arms = sweep_arms(arms, {key: [str(value) for value in values] for key, values in sweep.items()})
    asked = make_plan(arms, seeds)
    for arm in asked.arms.values():
        require_trackers(arm)
    if cluster is not None:
        require_cluster(cluster)
    require_place(folder, asked, reference)
    with lock(folder):
        plan = keep_plan(folder, asked, reference, trust_code=trust_code)
        for job in plan.jobs():
            folder.failure(job).unlink(missing_ok=True)  # every call tries failed runs again
            folder.marker(job).unlink(missing_ok=True)  # left by a killed process
        with ComparisonDisplay(folder, plan, quiet):
            if cluster is not None:
                train_on_cluster(folder, plan.jobs(), cluster, lambda: collect(folder), cpus=cpus_per_run, gpus=gpus_per_run)  # fmt: skip
            else:
                _train_here(folder, plan, workers)
        return conclude(folder)


def _train_here(folder: ComparisonFolder, plan: Plan, workers: int | Literal["auto"]) -> None:
    if workers == "auto":
        _train_in_turn(folder, plan, limit=len(plan.arms) if torch.cuda.is_available() else 1)
        workers = workers_that_fit()
    if workers > 1:
        Workers(folder, plan.jobs(), workers, lambda: collect(folder)).run()
    else:
        _train_in_turn(folder, plan)


def _train_in_turn(folder: ComparisonFolder, plan: Plan, limit: int | None = None) -> None:
    """Train the jobs that are not done, at most ``limit`` of them, in this process."""
    for job in [job for job in plan.jobs() if not folder.is_done(job)][:limit]:
        train_job(folder, job)
        collect(folder)


def write_again(folder: str | Path) -> Path:
    """Collect the results of a comparison, finished or not, and write its report again; returns the report's path.

    Raises:
        CoterieError: the folder holds no comparison.
    """
    found = ComparisonFolder(folder)
    collect(found)
    return write_comparison_report(found.path)


def conclude(folder: ComparisonFolder) -> ComparisonResult:
    """Write the results of the comparison so far.

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


def workers_that_fit() -> int:
    """Returns how many trainings fit at once, by the peak memory of this process: at most one per core, on GPUs as many as fit in their memory."""
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    if peak:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        fit: float = len(devices()) * int(0.9 * free / (peak + CUDA_CONTEXT))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        fit = 0.6 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / peak
    return max(1, min(cores(), int(fit)))
