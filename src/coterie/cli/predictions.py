"""Input and output of ``coterie predict``: samples found by the run's task; answers as a table, JSON lines or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from coterie.errors import CoterieError, did_you_mean
from coterie.run_folder import RunFolder
from coterie.tasks import UNNAMED, find_part
from coterie.tasks.inputs import filled_lines
from coterie.terminal import one_line, printable

FORMATS = ("table", "json", "csv")


def print_predictions(run: Path, inputs: Sequence[str], options: dict[str, Any], format: str) -> str:
    """Print an answer for each sample as it is computed; samples that cannot be read are reported on standard error.

    Returns:
        How many could not be read, in words; empty if all could.

    Raises:
        CoterieError: a format or option is unknown, samples are missing, or there is nothing to predict.
    """
    if format not in FORMATS:
        raise CoterieError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}; expected {', '.join(FORMATS)}")
    folder = RunFolder(run).require()
    samples = find_part(folder.read_description().get("task", UNNAMED), "inputs")(inputs, folder, _lines)
    if not samples:
        raise CoterieError("nothing to predict: the list on standard input is empty")
    from coterie.prediction import iterate_predictions

    in_terminal = sys.stdout.isatty()  # names are escaped on a terminal only
    writer: Any = None
    failed = 0
    for sample, answer in zip(samples, iterate_predictions(run, samples, **options), strict=True):
        shown = str(sample) if isinstance(sample, Path) else sample
        name = "\t".join(shown) if isinstance(shown, tuple) else shown
        if answer.error is not None:
            failed += 1
            typer.echo(printable(f"coterie: {answer.error}"), err=True)
        elif format == "json":
            typer.echo(json.dumps({"input": shown, **answer.record()}))
        elif format == "csv":
            cells = {"input": name, **answer.row()}
            if writer is None:
                writer = csv.DictWriter(sys.stdout, list(cells), lineterminator="\n")
                writer.writeheader()
            writer.writerow({head: one_line(cell) if in_terminal else cell for head, cell in cells.items()})
        else:
            typer.echo(one_line(name.replace("\t", " | ") if isinstance(shown, tuple) else name))
            for line in answer.lines():
                typer.echo(f"  {one_line(line)}")
    return f"{failed:,} of {len(samples):,} could not be read" if failed else ""


def _lines() -> list[str]:
    return filled_lines(sys.stdin, "standard input")
