"""The command ``coterie compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.arguments import TrustCode, read_seeds, read_sweep, recipes_and_overrides, require_data
from coterie.cli.output import print_comparison, print_line
from coterie.errors import CoterieError, RunError


def compare(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE]... [KEY=VALUE]...",
            help="Recipes, then settings that apply to all of them.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the comparison; repeating the command resumes it.")
    ] = Path("comparisons/comparison"),
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", "-m", help="Names of methods, separated by commas; default: the methods of the recipes."
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="KEY=A,B,C",
            help="Try these values of a setting, in a grid with those of other --sweep options; evaluated on validation only. May be repeated.",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", "-s", help="Number of seeds (5: seeds 0 to 4), or the seeds themselves (3,5,7).")
    ] = "3",
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="Arm that the others are compared with; default: the first one with method baseline, else the first.",
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            "--workers",
            "-w",
            help="Number of simultaneous trainings on this machine, or auto: as many as fit in memory, at most one per core.",
        ),
    ] = "1",
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster", metavar="auto|local|ADDRESS", help="Train on a Ray cluster whose machines share the folder."
        ),
    ] = None,
    cpus_per_run: Annotated[float, typer.Option("--cpus-per-run", min=0.01, help="With --cluster: CPUs per run.")] = 1,
    gpus_per_run: Annotated[
        float | None,
        typer.Option("--gpus-per-run", min=0, help="With --cluster: GPUs per run; 0.25: four runs on one GPU."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Train every method with every seed, and report which differences are significant."""
    arguments = arguments or []
    recipes, overrides = recipes_and_overrides(arguments)
    names = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    if names == []:
        raise CoterieError(f"--methods {methods!r} names no method; expected names separated by commas")
    chosen = read_seeds(seeds)
    check_workers(workers, cluster, cpus_per_run, gpus_per_run)
    grid = read_sweep(sweep or [])
    from coterie.comparison.arms import build_arms, sweep_arms
    from coterie.comparison.plan import make_plan

    arms = build_arms(recipes, names, overrides, trust_code)
    arms = sweep_arms(arms, grid) if grid else arms
    make_plan(arms, chosen)  # report invalid arguments before training code is imported
    for arm in arms.values():
        require_data(arm)
    from coterie.comparison.run import compare as run

    number = "auto" if workers == "auto" else int(workers)
    try:
        result = run(
            recipes,
            methods=names,
            seeds=chosen,
            output=output,
            reference=reference,
            overrides=overrides,
            sweep=grid,
            workers=number,  # type: ignore[arg-type]  # typer's text was checked above
            cluster=cluster,
            cpus_per_run=cpus_per_run,
            gpus_per_run=gpus_per_run,
            quiet=quiet,
            trust_code=trust_code,
        )
    except RunError:
        if (output / "report.html").is_file():  # some runs failed; show the others
            print_comparison(output)
        raise
    print_comparison(result.path)
    print_line(f"report  {result.path / 'report.html'}")


def check_workers(workers: str, cluster: str | None, cpus: float, gpus: float | None) -> None:
    """Check the options that say where a comparison trains.

    Raises:
        CoterieError: the number of workers is invalid, or an option has no effect together with another.
    """
    if workers != "auto" and not (workers.isdecimal() and int(workers) > 0):
        raise CoterieError(f"--workers {workers}: expected a number of at least 1, or auto")
    if cluster is not None and workers != "1":
        raise CoterieError(
            f"--workers {workers} has no effect with --cluster: Ray decides by --cpus-per-run and --gpus-per-run"
        )
    if cluster is None and (cpus != 1 or gpus is not None):
        given = "--cpus-per-run" if cpus != 1 else "--gpus-per-run"
        raise CoterieError(f"{given} has an effect with --cluster only")
