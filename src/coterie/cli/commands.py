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
    help="Knowledge distillation: train a group of networks that teach one another, or students of a teacher, and deploy one of them. --debug prints a traceback on errors.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]
SETTINGS = (
    "A recipe (file or published name) or a folder of data, then settings such as training.epochs=30 of the sections data, "
    "network, method, optimizer, schedule, training, teacher and teaching. `coterie list settings` shows all settings."
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
        Path | None, typer.Option("--output", "-o", help="Run folder; default: a new folder in runs/.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the final table.")] = False,
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
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Settings of other data to evaluate on: data=FOLDER.", show_default=False
        ),
    ] = None,
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Also print precision, recall and F1 of every class (classification only)."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON, for classification with those of every class.")
    ] = False,
    trust_code: TrustCode = False,
) -> None:
    """Evaluate a run again, on its test split or on other data of its task (for classification with the same classes)."""
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
            metavar="INPUTS...",
            help="Samples of the run's task, or - to read them from standard input, one a line. "
            "Image classification and restoration: image files, folders, or patterns such as 'shots/*.jpg'. Speech: audio files or folders. "
            "Text classification: texts (pairs separated by a tab); language models: prompts; retrieval: queries; each also as files (.txt, one a line; .csv, .jsonl, ...).",
            show_default=False,
        ),
    ],
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            min=1,
            help="Classification: number of classes to print for each sample; retrieval: number of documents (5).",
            show_default=False,
        ),
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(
            "--documents",
            help="Retrieval: file of the documents to search, one a line or in rows; default: those of the run.",
            show_default=False,
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Option of the run's task as KEY=VALUE; may be repeated. Language models: tokens, temperature, top_p, seed; restoration: tile, overlap; speech: layer.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for output files. Restoration: enlarged images (default: none are written); speech: features (default: features/).",
            show_default=False,
        ),
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="table, json (one object a line) or csv.")] = "table",
) -> None:
    """Predict with a run's deployed student: classes of images or texts, continuations of prompts, documents for queries, enlarged images, features of audio. Inputs that cannot be read are reported and skipped."""
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
            help="Depends on the run's task, its default first. Image classification: timm, onnx, pt2, safetensors; text classification and speech: transformers, onnx; "
            "language models: transformers; retrieval: sentence-transformers, router, onnx; restoration: diffusers, lora, pt2.",
            show_default=False,
        ),
    ] = None,
    which: Annotated[
        str,
        typer.Option(
            "--which",
            "-w",
            help="student (the deployed one), a student's number, or, for image classification in formats other than timm, ensemble or method (the method's own ensemble).",
        ),
    ] = "student",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; default: export/ in the run.")] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Image classification with --format onnx: quantise the file to int8, and measure the change in top-1 accuracy and file size.",
        ),
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="USER/NAME", help="Upload the export to a repository of the Hugging Face Hub."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: make a new repository private.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Export a run's student, or its ensemble, to a format of other libraries, with a model card."""
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
        str | None, typer.Option("--against", help="Method to compare with; default: the same network trained alone.")
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", min=1, help="Number of measurement rounds; figures are medians.")
    ] = 7,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for benchmark.json and benchmark.md.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Measure the cost of a recipe's training step against that of a plain network: time, operations, memory, data loading."""
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
    """Write report.html, one self-contained page, to each folder of a run or a comparison."""
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
            help="Part of the name, or a pattern such as resnet*; for settings also a section or a task.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List methods, networks (with FILTER also timm's), data sets, recipes, tasks, or settings with their defaults and bounds."""
    if what not in LISTINGS:
        raise CoterieError(f"cannot list {what!r}{did_you_mean(what, LISTINGS)}; expected one of {', '.join(LISTINGS)}")
    LISTINGS[what](pattern)
