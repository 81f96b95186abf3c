"""What ``coterie predict`` takes and prints: paths, folders, patterns and lists in; a table, JSON lines or CSV out."""

from __future__ import annotations

import csv
import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from coterie.errors import CoterieError, did_you_mean
from coterie.run_folder import RunFolder
from coterie.terminal import one_line, printable

FORMATS = ("table", "json", "csv")


def print_predictions(run: Path, inputs: Sequence[str], top: int, format: str) -> str:
    """Print a prediction for each sample as it comes, and name what cannot be read on standard error.

    Returns:
        How many could not be read, in words; empty where all could.

    Raises:
        CoterieError: an unknown format, a path that is not there, a folder or a pattern without images, or nothing to predict.
    """
    if format not in FORMATS:
        raise CoterieError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}; expected {', '.join(FORMATS)}")
    folder = RunFolder(run).require()
    description = folder.read_description()
    samples = _texts(inputs, folder) if description.get("task") == "text_classification" else find_pictures(inputs)
    if not samples:
        raise CoterieError("nothing to predict: the list on standard input is empty")
    from coterie.prediction import iterate_predictions

    in_terminal = sys.stdout.isatty()  # a file gets names as they are
    writer = csv.writer(sys.stdout, lineterminator="\n")
    failed = 0
    for number, prediction in enumerate(iterate_predictions(run, samples, top)):
        if number == 0 and format == "csv":
            ranks = range(1, 1 + min(top, len(description["class_names"])))
            writer.writerow(["input", *(f"{name}_{rank}" for rank in ranks for name in ("class", "probability"))])
        sample: Any = samples[number]
        shown = str(sample) if isinstance(sample, Path) else sample
        if prediction.error is not None:
            failed += 1
            typer.echo(printable(f"coterie: {prediction.error}"), err=True)
        elif format == "json":
            classes = [{"class": name, "probability": value} for name, value in prediction.classes]
            typer.echo(json.dumps({"input": shown, "classes": classes}))
        elif format == "csv":
            cells = ["\t".join(shown) if isinstance(shown, tuple) else shown]
            cells += [cell for name, value in prediction.classes for cell in (name, f"{value:.6g}")]
            writer.writerow([one_line(cell) for cell in cells] if in_terminal else cells)
        else:
            typer.echo(one_line(" | ".join(shown) if isinstance(shown, tuple) else shown))
            for name, value in prediction.classes:
                typer.echo(f"  {value:7.2%}  {one_line(name)}")
    return f"{failed:,} of {len(samples):,} could not be read" if failed else ""


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """Image files of paths, folders (all that lies below, in order of their names), patterns, and ``-``: a list on standard input.

    What stands in the list need not exist: each is reported when its turn comes.

    Raises:
        CoterieError: what was typed is not there, or holds no images.
    """
    found: list[Path] = []
    for each in inputs:
        path = Path(each).expanduser()
        if each == "-":
            found += [Path(line) for line in _lines()]
        elif path.is_dir():
            below = _pictures_below(path)
            if not below:
                raise CoterieError(f"the folder {each!r} holds no images")
            found += below
        elif path.exists():
            found.append(path)
        elif glob.has_magic(each):
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            files = [file for match in matches for file in (_pictures_below(match) if match.is_dir() else [match])]
            if not files:
                raise CoterieError(f"no image matches {each!r}")
            found += files
        else:
            near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
            raise CoterieError(f"no image {each!r}{near}")
    return found


def _pictures_below(folder: Path) -> list[Path]:
    from coterie.tasks.images.data.layout import Walk

    return list(Walk(folder, []).images(folder).paths)


def _lines() -> list[str]:
    return [line.rstrip("\r\n") for line in sys.stdin if line.strip()]


def _texts(inputs: Sequence[str], folder: RunFolder) -> list[Any]:
    from coterie.prediction import text_columns

    texts = [text for each in inputs for text in (_lines() if each == "-" else [each])]
    return [tuple(text.split("\t")) for text in texts] if text_columns(folder) > 1 else list(texts)
