"""Report panels of a language model: agreement by rank, loss by position in the row, and continuations by students and teachers.

The task keeps their data in the run's gallery, in ``language.json``, with a bounded size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coterie.files import write_json
from coterie.run_folder import RunFolder, read_json
from coterie.tasks.panels import Panel, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from coterie.tasks.language.evaluation import LanguageEvaluation

FILE = "language.json"
SHOWN = 300  # characters of a text


def save(
    folder: RunFolder,
    split: str,
    length: int,
    evaluation: LanguageEvaluation,
    teachers: Sequence[str],
    continuations: Sequence[Mapping[str, Any]],
) -> None:
    """Write the data of the panels to the gallery, which must exist.

    Args:
        folder: the run folder.
        split: the evaluated split.
        length: tokens per row.
        evaluation: the final evaluation.
        teachers: names of the teachers.
        continuations: output of :func:`coterie.tasks.language.continuations.continue_rows`.
    """
    deployed, several = evaluation.figures["deployed"]["student"], len(evaluation.curves) > 1
    students = [
        {"name": f"student {number}{', deployed' if number == deployed else ''}" if several else "student", **curves}
        for number, curves in enumerate(evaluation.curves)
    ]
    taught = [{"name": name, **curves} for name, (_, curves) in zip(teachers, evaluation.teachers, strict=False)]
    kept = {"split": split, "length": length, "students": students, "teachers": taught}
    write_json(folder.gallery / FILE, _plain({**kept, "continuations": list(continuations)}))


def _plain(value: Any) -> Any:
    """Convert to JSON values. JSON has no nan, so parts of a row where no position counts become null."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def panels(folder: RunFolder) -> list[Panel]:
    """Return the panels of a run; none if their data were not kept."""
    path = folder.gallery / FILE
    if not path.is_file():
        return []
    kept = read_json(path)
    models = [*kept["students"], *kept["teachers"]]
    found = []
    if any("agreement_by_rank" in each for each in kept["students"]):
        picture = _picture(kept["students"], "agreement_by_rank", "rank", 1.0, share=True)
        text = f"Share of {kept['split']} positions at which student and teacher have the same token at a rank, the likeliest token first."
        found.append(Panel("Agreement with the teacher by rank", text, (picture,)))
    width = kept["length"] / max(1, len(models[0]["nll_by_position"]))
    picture = _picture(models, "nll_by_position", "position in the row", width, share=False)
    text = f"Mean NLL in nats on the {kept['split']} split: what comes before helps to predict what comes."
    found.append(Panel("Loss by position in the row", text, (picture,)))
    if kept["continuations"]:
        names = list(kept["continuations"][0]["texts"])
        rows = tuple(
            (_cut(each["prompt"]), _cut(each["text"]), *(_cut(each["texts"][name]) for name in names))
            for each in kept["continuations"]
        )
        text = (
            f"Beginnings of {kept['split']} documents, how they go on, and how each model does: its likeliest tokens."
        )
        found.append(Panel("Continuations", text, (), Table(("beginning", "document", *names), rows)))
    return found


def _picture(models: Sequence[Mapping[str, Any]], key: str, label: str, width: float, *, share: bool) -> Figure:
    """Plot one curve per model; each part of a row is placed at its middle, in units of ``width``."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for model in models:
        values = [math.nan if value is None else value for value in model[key]]
        middle = 1.0 if width == 1.0 else width / 2
        axes.plot([middle + width * number for number in range(len(values))], values, label=model["name"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=label, ylabel="" if share else "NLL")
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylim(0, 1)
    axes.legend()
    return figure


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
