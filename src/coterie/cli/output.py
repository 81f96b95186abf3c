"""Output of the commands. Each function imports what it needs when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from coterie.errors import CoterieError
from coterie.terminal import one_line, printable


def print_line(text: str) -> None:
    typer.echo(printable(text))


def print_figures(figures: dict[str, Any], split: str) -> None:
    """Prints the final table: every student, their mean, the ensembles, and what the task compares them with."""
    from rich.console import Console
    from rich.table import Table

    from coterie.metrics import primary
    from coterie.tasks import UNNAMED, find_row
    from coterie.tasks.figures import figures_of_run, shown_figures

    task = find_row(figures.get("task", UNNAMED))
    sample = task.sample
    count = f", {figures['num_samples']:,} {sample}s of {figures['data']}" if "num_samples" in figures else ""
    table = Table(title=f"{split} split{count}", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    classes = len(figures.get("per_class") or figures.get("class_names", []))
    declared = figures_of_run(figures)
    shown = shown_figures(declared, figures["students"][0].keys(), classes)
    for each in shown:
        table.add_column(each.label, justify="right")

    def row(name: str, values: dict[str, float], style: str = "") -> None:
        cells = [each.show(values[each.key]) if each.key in values else "–" for each in shown]
        table.add_row(name, *cells, style=style)

    students = figures["students"]
    deployed, leader = figures["deployed"]["student"], figures.get("leader")
    for number, student in enumerate(students):
        marks = [word for word, holds in (("leader", number == leader), ("deployed", number == deployed)) if holds]
        marked = f" ({', '.join(marks)})" if marks else ""
        row(f"student {number}{marked}", student, "bold" if number == deployed else "")
    if len(students) > 1:
        row("mean student", figures["mean_student"])
        for key, name in (
            ("mean_probability", "mean probability"),
            ("mean_logit", "mean logit"),
            ("method", "the method's"),
        ):
            if key in figures.get("ensemble", {}):
                row(f"ensemble, {name}", figures["ensemble"][key])
    for key, name in task.references:
        if isinstance(figures.get(key), dict):
            row(name, figures[key])
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    console.print(table)
    soft = not sys.stdout.isatty()  # lines are wrapped on a terminal, not in a file
    if reason := figures.get("deployed_reason"):
        console.print(f"student {deployed} is deployed: {reason}", soft_wrap=soft)
    if figures.get("diversity"):
        values = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures["diversity"].items())
        console.print(f"diversity: {values}", soft_wrap=soft)
    if len(students) > 1:
        name, own = primary(figures, leader)
        first = declared[0]
        console.print(
            f"to compare with other methods: {name}, {first.show(own[first.key])} {first.label}", soft_wrap=soft
        )
    if "balanced_accuracy" in figures["deployed"]:
        console.print(f"balanced accuracy of the deployed student: {figures['deployed']['balanced_accuracy']:.2%}")


def require_classes(run: Path) -> None:
    """Refuse per-class figures for a run without classes.

    Raises:
        CoterieError: the folder holds no run, or its task has no classes.
    """
    from coterie.run_folder import RunFolder
    from coterie.tasks import UNNAMED

    description = RunFolder(run).require().read_description()
    if not description.get("class_names"):
        raise CoterieError(f"--per-class is for runs of classes, not for task={description.get('task', UNNAMED)}")


def print_classes(figures: dict[str, Any]) -> None:
    """Prints the deployed student's figures of every class; class names are not interpreted as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    classes = figures["per_class"]
    table = Table(
        title=f"student {figures['deployed']['student']} by class", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("class", overflow="fold")
    for name in ("precision", "recall", "F1", "samples"):
        table.add_column(name, justify="right", no_wrap=True)

    for each in classes:
        shares = ("–" if each[key] is None else f"{each[key]:.2%}" for key in ("precision", "recall", "f1"))
        table.add_row(Text(one_line(each["name"])), *shares, str(each["support"]))
    Console(width=None if sys.stdout.isatty() else 100, highlight=False).print(table)


def print_comparison(folder: Path) -> None:
    """Prints a comparison's table and its conclusions, from its folder."""
    from rich.console import Console
    from rich.table import Table

    from coterie.report import comparison_tables as tables
    from coterie.run_folder import read_json

    comparison = read_json(folder / "comparison.json")
    table = Table(title=one_line(comparison["title"]), title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    reference = comparison["reference"]
    figure, main = tables.figure_of(comparison), tables.main_column(comparison)
    ensemble = tables.ensemble_column(comparison)
    for name in (
        "n",
        main.heading,
        *([ensemble.heading] if ensemble else []),
        f"- {one_line(reference)}",
        "95 % interval",
        "p (Holm)",
    ):
        table.add_column(name, justify="right")
    for label, entry in comparison["methods"].items():
        row = comparison["differences"].get(main.key, {}).get(label)
        low_high = (
            "" if row is None or row["interval"] is None else " to ".join(map(figure.difference, row["interval"]))
        )
        table.add_row(
            one_line(label),
            str(entry["runs"]),
            tables.cell(entry, main),
            *([tables.cell(entry, ensemble)] if ensemble else []),
            tables.difference(comparison, label),
            low_high,
            "" if label == reference else tables.p_value(comparison, label, "p_holm"),
            style="bold" if label == reference else "",
        )
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False, markup=False, emoji=False)
    console.print(table)
    for sentence in comparison["reading"]:
        console.print(f"- {one_line(sentence)}", soft_wrap=not sys.stdout.isatty(), markup=False)
