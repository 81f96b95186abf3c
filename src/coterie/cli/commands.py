"""The commands. Each imports what it needs when it runs, so that ``coterie --help`` imports no torch."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.arguments import TrustCode, read_options, recipe_and_overrides, require_data
from coterie.cli.comparisons import compare
from coterie.cli.listings import LISTINGS
from coterie.cli.output import print_classes, print_figures, print_line, require_classes
from coterie.errors import CoterieError, RunError, did_you_mean

app = typer.Typer(
    name="coterie",
    help="Train a group of networks that teach one another; deploy one of them. Add --debug for a traceback on errors.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]
SETTINGS = (
    "A recipe's file or published name, or a folder of data; and settings such as training.epochs=30, in the sections data, "
    "network, method, optimizer, schedule, training, teacher and teaching. `coterie list settings` shows them all."
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from coterie.version import __version__

        typer.echo(f"coterie {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself; the help text is that of the app."""


@app.command()
def train(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE|FOLDER] [KEY=VALUE]...", help=SETTINGS, show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run folder; default: a new one in runs/.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the final table only.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Train the students of a recipe; without one, OKDMDE on scikit-learn's embedded digits."""
    recipe, overrides = recipe_and_overrides(arguments or [])
    from coterie.recipe import load_recipe
    from coterie.run_folder import RunFolder

    if recipe is not None or overrides:  # report invalid settings before torch is imported
        stored = RunFolder(output).recipe if resume and output is not None else None
        own = stored is not None and recipe is None and stored.is_file()  # settings are those of the run's task
        require_data(load_recipe(stored if own else recipe, overrides, trust_code=trust_code), resume)
    from coterie.running.train import train as run

    result = run(recipe, output=output, overrides=overrides, resume=resume, quiet=quiet, trust_code=trust_code)
    print_figures(result.summary, result.summary["split"])
    print_line(f"run     {result.path}")
    print_line(f"student {result.path / 'student.safetensors'}")
    print_line(f"report  {result.path / 'report.html'}")


@app.command()
def evaluate(
    run: Run,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Other data: data=FOLDER.", show_default=False)
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also print precision, recall and F1 of every class.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON, those of every class included.")
    ] = False,
    trust_code: TrustCode = False,
) -> None:
    """Evaluate a run's students and ensembles again, on its test split or on other data with the same classes."""
    from coterie.running.reload import evaluate_run

    if per_class:
        require_classes(run)
    split, evaluation = evaluate_run(run, overrides or [], trust_code=trust_code)
    if json:
        typer.echo(dumps({"split": split, **evaluation.figures}, indent=2))
    else:
        print_figures(evaluation.figures, split)
        for note in evaluation.figures["data_notes"]:
            print_line(note)
        if per_class:
            print_classes(evaluation.figures)


@app.command()
def predict(
    run: Run,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="PATHS...",
            help="Image files, folders, patterns such as 'shots/*.jpg', or - for a list on standard input, one a line. "
            "Of a run of texts or of a language model: texts (pairs: a tab between), files of them (.txt, one a line; .csv, .jsonl, ...), or -. Of a run of retrieval: queries, or -.",
            show_default=False,
        ),
    ],
    top: Annotated[
        int | None,
        typer.Option(
            "--top", min=1, help="How many classes, or documents, to print for each sample (5).", show_default=False
        ),
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(
            "--documents",
            help="Of a run of retrieval: a file of the documents among which is searched, one a line or in rows (the run's own).",
            show_default=False,
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE, an option of the run's task, such as tokens=100; may be repeated.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for what is made of each sample: enlarged images.", show_default=False
        ),
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="table, json (one object a line) or csv.")] = "table",
) -> None:
    """Predict with a run's deployed student: classes of images or texts, the continuation of a prompt, the documents of a query, an enlarged image. Inputs that cannot be read are reported and skipped."""
    from coterie.cli.predictions import print_predictions

    given = read_options(options or []) | ({} if top is None else {"top": top})
    given |= {} if documents is None else {"documents": str(documents)}
    given |= {} if output is None else {"output": str(output)}
    if failed := print_predictions(run, inputs, given, format):
        raise RunError(failed)


@app.command()
def export(
    run: Run,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="timm (default), onnx, pt2 or safetensors; of a run of texts transformers or onnx.",
            show_default=False,
        ),
    ] = None,
    which: Annotated[
        str, typer.Option("--which", "-w", help="student (the deployed one), a student's number, ensemble or method.")
    ] = "student",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; default: export/ in the run.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise the ONNX file of a run of images, and measure what that costs.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="USER/NAME", help="Upload the folder to a repository of the Hugging Face Hub."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository of --push private.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Write a run's student, or its ensemble, for use elsewhere."""
    from coterie.export import export_run

    folder = export_run(run, format, output, which=which, int8=int8, push=push, private=private, trust_code=trust_code)
    if int8:
        from coterie.export.request import MEASURES
        from coterie.run_folder import read_json

        typer.echo(read_json(folder / MEASURES)["line"], err=True)  # standard output has only the folder
    print_line(str(folder))


app.command()(compare)


@app.command()
def benchmark(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE|FOLDER] [KEY=VALUE]...", help=SETTINGS, show_default=False)
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Method to compare with; default: the same network alone.")
    ] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Rounds; figures are medians.")] = 7,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for benchmark.json and benchmark.md.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Measure the cost of a training step of a recipe, compared with a plain network: time, operations, memory, data."""
    recipe, overrides = recipe_and_overrides(arguments or [])
    from coterie.recipe import load_recipe

    settings = load_recipe(recipe, overrides, trust_code=trust_code)
    require_data(settings)
    from coterie.benchmark.measure import measure
    from coterie.benchmark.table import markdown
    from coterie.comparison.arms import build_arms

    other = None if against is None else build_arms([settings], [against])[against]
    found = measure(settings, other, repetitions)
    text = markdown(found)
    print_line(text)
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

            print_line(str(write_again(run)))
        else:
            print_line(str(write_report(run)))


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(metavar="methods|networks|data|recipes|tasks|settings", show_default=False)],
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILTER]",
            help="Of settings a section or a task; else a part of the name, or a pattern.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List methods, networks (with a FILTER timm's too), data sets, recipes, tasks or settings with their defaults and bounds."""
    if what not in LISTINGS:
        raise CoterieError(f"cannot list {what!r}{did_you_mean(what, LISTINGS)}; expected one of {', '.join(LISTINGS)}")
    LISTINGS[what](pattern)
