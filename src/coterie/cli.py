"""The commands. Each imports what it needs when it runs, so that ``coterie --help`` imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from coterie.errors import CoterieError, RunError, did_you_mean

app = typer.Typer(
    name="coterie",
    help="Train a group of networks that teach one another; deploy one of them. Add --debug for a traceback on errors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Run = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]
SETTINGS = "Settings such as training.epochs=30; see the recipe reference in the documentation."


@app.command()
def train(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", help=SETTINGS, show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run folder; default: a new one in runs/.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the final table only.")] = False,
) -> None:
    """Train the students of a recipe; without one, OKDMDE on scikit-learn's embedded digits."""
    recipe, overrides = _recipe_and_overrides(arguments or [])
    from coterie.recipe import load_recipe

    if recipe is not None or overrides:
        load_recipe(recipe, overrides)  # a mistake in the settings is named before torch is imported
    from coterie.training.run import train as run

    result = run(recipe, output=output, overrides=overrides, resume=resume, quiet=quiet)
    _print_figures(result.summary, result.summary["split"])
    _say(f"run     {result.path}")
    _say(f"student {result.path / 'student.safetensors'}")
    _say(f"report  {result.path / 'report.html'}")


@app.command()
def evaluate(
    run: Run,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Other data: data=FOLDER.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a run's students and ensembles again, on its test split or on other data with the same classes."""
    from coterie.training.reload import evaluate_run

    split, evaluation = evaluate_run(run, overrides or [])
    if json:
        import json as writer

        typer.echo(writer.dumps({"split": split, **evaluation.figures}, indent=2))
    else:
        _print_figures(evaluation.figures, split)


@app.command()
def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to print for each image.")] = 5,
) -> None:
    """Classify image files with a run's deployed student."""
    from coterie.prediction import predict_images

    for prediction in predict_images(run, images, top=top):
        _say(str(prediction.path))
        for name, probability in prediction.classes:
            _say(f"  {probability:7.2%}  {name}")


@app.command()
def export(
    run: Run,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="timm (default), onnx, pt2 or safetensors; of a run of texts transformers.",
            show_default=False,
        ),
    ] = None,
    which: Annotated[
        str, typer.Option("--which", "-w", help="student (the deployed one), a student's number, ensemble or method.")
    ] = "student",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; default: export/ in the run.")] = None,
) -> None:
    """Write a run's student, or its ensemble, for use elsewhere."""
    from coterie.export import export_run

    _say(str(export_run(run, format, output, which=which)))


@app.command()
def compare(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE]... [KEY=VALUE]...", help="Recipes, and settings for all.", show_default=False),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The comparison's folder; the same command goes on with it.")
    ] = Path("comparisons/comparison"),
    methods: Annotated[
        str | None, typer.Option("--methods", "-m", help="Names, separated by commas; default: the recipes' own.")
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", "-s", help="How many (5: seeds 0 to 4), or which (3,5,7).")] = "3",
    reference: Annotated[
        str | None, typer.Option("--reference", help="The arm that others are compared with; default: baseline.")
    ] = None,
    workers: Annotated[
        str, typer.Option("--workers", "-w", help="Trainings at once on this machine, or auto: as many as fit.")
    ] = "1",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress of single runs.")] = False,
) -> None:
    """Train every method with every seed, and say what can be said of the differences."""
    arguments = arguments or []
    recipes = [each for each in arguments if "=" not in each]
    overrides = [each for each in arguments if "=" in each]
    names = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    if names == []:
        raise CoterieError(f"--methods {methods!r} names no method; expected names separated by commas")
    chosen = _seeds(seeds)
    if workers != "auto" and not (workers.isdecimal() and int(workers) > 0):
        raise CoterieError(f"--workers {workers}: expected a number of at least 1, or auto")
    from coterie.comparison.plan import build_arms, make_plan

    make_plan(build_arms(recipes, names, overrides), chosen)  # a mistake is named before all of training is imported
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
            workers=number,  # type: ignore[arg-type]  # typer's text was checked above
            quiet=quiet,
        )
    except RunError:
        if (output / "report.html").is_file():  # runs failed; the others count
            _print_comparison(output)
        raise
    _print_comparison(result.path)
    _say(f"report  {result.path / 'report.html'}")


def _seeds(text: str) -> int | list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or parts == ["0"]:
        raise CoterieError(f"--seeds {text}: expected how many (5) or which, separated by commas (3,5,7)")
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


def _print_comparison(folder: Path) -> None:
    """A comparison's table and what it says, from its folder."""
    from rich.console import Console
    from rich.table import Table

    from coterie.report import comparison_tables as tables
    from coterie.training.records import read_json

    comparison = read_json(folder / "comparison.json")
    table = Table(title=comparison["title"], title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    reference = comparison["reference"]
    for name in ("n", "top-1 %", "ensemble %", f"- {reference}", "95 % interval", "p (Holm)"):
        table.add_column(name, justify="right")
    for label, entry in comparison["methods"].items():
        row = comparison["differences"].get(tables.MAIN, {}).get(label)
        low_high = (
            ""
            if row is None or row["interval"] is None
            else "{:+.2f} to {:+.2f}".format(*(100 * x for x in row["interval"]))
        )
        table.add_row(
            label,
            str(entry["runs"]),
            tables.cell(entry, tables.COLUMNS[0]),
            tables.cell(entry, tables.COLUMNS[2]),
            tables.difference(comparison, label),
            low_high,
            "" if label == reference else tables.p_value(comparison, label, "p_holm"),
            style="bold" if label == reference else "",
        )
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    console.print(table)
    for sentence in comparison["reading"]:
        console.print(f"- {sentence}", soft_wrap=True, markup=False)


@app.command()
def benchmark(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", help=SETTINGS, show_default=False)
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Method to compare with; default: the same network alone.")
    ] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Rounds; figures are medians.")] = 7,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for benchmark.json and benchmark.md.")
    ] = None,
) -> None:
    """Measure what a step of a recipe costs, beside a plain network's: time, operations, memory, data."""
    recipe, overrides = _recipe_and_overrides(arguments or [])
    from coterie.recipe import load_recipe

    settings = load_recipe(recipe, overrides)
    from coterie.benchmark.measure import measure
    from coterie.benchmark.table import markdown
    from coterie.comparison.plan import build_arms

    other = None if against is None else build_arms([settings], [against])[against]
    found = measure(settings, other, repetitions)
    text = markdown(found)
    _say(text)
    if output is not None:
        from coterie.files import write_json, write_text

        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "benchmark.json", found)
        write_text(output / "benchmark.md", text)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or comparisons.", show_default=False)],
) -> None:
    """Write report.html, one self-contained page, into each folder of a run or a comparison."""
    from coterie.report import write_report

    for run in runs:
        if (run / "plan.json").is_file():
            from coterie.comparison.run import write_again

            _say(str(write_again(run)))
        else:
            _say(str(write_report(run)))


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(metavar="methods|networks|data|recipes", show_default=False)],
) -> None:
    """List methods, networks, data sets or recipes that are known by name."""
    listings = {"methods": _list_methods, "networks": _list_networks, "data": _list_data, "recipes": _list_recipes}
    if what not in listings:
        raise CoterieError(f"cannot list {what!r}{did_you_mean(what, listings)}; expected one of {', '.join(listings)}")
    listings[what]()


def _list_methods() -> None:
    from coterie.methods import TABLE

    kind = ""
    for name, entry in TABLE.items():
        if entry.kind != kind:
            kind = entry.kind
            _say(f"[{kind}]")
        _say(f"  {name:<12} {entry.summary}{f' ({entry.paper})' if entry.paper else ''}")


def _list_networks() -> None:
    from coterie.networks.catalogue import NETWORKS

    for name, line in NETWORKS.items():
        _say(f"  {name:<26} {line}")
    _say("and every name of timm.list_models().")


def _list_data() -> None:
    from coterie.data.catalogue import DATA

    for name, line in DATA.items():
        _say(f"  {name:<16} {line}")


def _list_recipes() -> None:
    found = sorted(Path("recipes").glob("*.yaml"))
    if not found:
        raise CoterieError("no folder recipes/ with YAML files here; the recipes stand in coterie's repository")
    for path in found:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        _say(f"  {path!s:<48} {first.lstrip('# ')}")


def _recipe_and_overrides(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Split ``[RECIPE] [key=value ...]``: what has no equals sign is the recipe."""
    recipes = [each for each in arguments if "=" not in each]
    if len(recipes) > 1:
        raise CoterieError(f"expected one recipe and key=value settings, got {', '.join(map(repr, recipes))}")
    return (recipes[0] if recipes else None), [each for each in arguments if "=" in each]


def _say(text: str) -> None:
    typer.echo(text)


def _print_figures(figures: dict[str, Any], split: str) -> None:
    """The final table: every student, their mean, the ensembles, what is deployed."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{split} split", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in ("top-1", "top-5", "NLL", "Brier", "ECE"):
        table.add_column(name, justify="right")

    def row(name: str, values: dict[str, float], style: str = "") -> None:
        shares = [f"{values[key]:.2%}" for key in ("top1", "top5")]
        rest = [f"{values[key]:.4f}" for key in ("nll", "brier", "ece")]
        table.add_row(name, *shares, *rest, style=style)

    students = figures["students"]
    deployed = figures["deployed"]["student"]
    for number, student in enumerate(students):
        row(
            f"student {number}{' (deployed)' if number == deployed else ''}",
            student,
            "bold" if number == deployed else "",
        )
    if len(students) > 1:
        row("mean student", figures["mean_student"])
        for key, name in (
            ("mean_probability", "mean probability"),
            ("mean_logit", "mean logit"),
            ("method", "the method's"),
        ):
            row(f"ensemble, {name}", figures["ensemble"][key])
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    console.print(table)
    if figures["diversity"]:
        values = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures["diversity"].items())
        console.print(f"diversity: {values}", soft_wrap=True)


def main() -> None:
    """Entry point: errors in one or two lines; exit code 2 for bad input, 1 for a failed run, 130/143 for a signal."""
    here = str(Path.cwd())
    if (
        here not in sys.path
    ):  # a method of the user's own may lie there; last, so that it hides nothing that is installed
        sys.path.append(here)
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except SystemExit as stop:  # typer leaves by it in any case
        if stop.code:
            raise
    except (CoterieError, RunError) as error:
        if debug:
            raise
        typer.echo(f"coterie: {error}", err=True)
        sys.exit(2 if isinstance(error, CoterieError) else 1)
    except KeyboardInterrupt:
        typer.echo("coterie: interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        exit_code = getattr(error, "exit_code", None)
        if isinstance(exit_code, int):  # interrupted by a signal
            typer.echo(f"coterie: {error}", err=True)
            sys.exit(exit_code)
        text = " ".join(str(error).split())[:300]
        typer.echo(f"coterie: the run failed: {type(error).__name__}: {text}\n(--debug shows where)", err=True)
        sys.exit(1)
