"""Writes the report of a run folder as one self-contained HTML file: selects its content and fills the template."""

from __future__ import annotations

import re
import shlex
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from coterie.files import write_text
from coterie.report import wording
from coterie.report.cards import disputed_cards, error_cards
from coterie.report.classes import SORTS, class_table, confusion_section
from coterie.report.facts import facts
from coterie.report.panels import (
    attention_panels,
    final_attention,
    loss_panels,
    reliability_panels,
    validation_panels,
)
from coterie.report.predictions import pairwise_disagreement
from coterie.report.run import GroupFigures, RunData, read_run
from coterie.report.task_panels import task_sections
from coterie.tasks.figures import shown_figures


def write_report(run: Path | str, output: Path | None = None, summary: dict[str, Any] | None = None) -> Path:
    """Write the report of a run, finished or not.

    Args:
        run: the run folder; nothing else is read.
        output: the file to write; None: ``report.html`` in the run folder.
        summary: the summary of a run that is about to finish, used instead of its summary.json.

    Returns:
        Path of the report.

    Raises:
        CoterieError: the folder is not a run, or a file in it is damaged.
        RunError: the report cannot be written.
    """
    data = read_run(run, summary)
    path = data.folder.report if output is None else Path(output)
    write_text(path, render(data))
    return path


@cache
def templates() -> Environment:
    """Returns the Jinja environment. Everything is escaped, and a misspelt name is an error. It is cached, so that templates are compiled once."""
    return Environment(
        loader=PackageLoader("coterie.report"),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def breakable(name: str) -> Markup:
    """Allows line breaks after underscores and slashes in a long name; copied text is unchanged."""
    if len(name) <= 14:
        return escape(name)
    return Markup(re.sub(r"([_/])", r"\1<wbr>", str(escape(name))))


def render(run: RunData) -> str:
    """Renders the page."""
    environment = templates()
    environment.filters["breakable"] = breakable
    environment.globals.update(
        heading=partial(wording.heading, sample=run.sample),
        cell=wording.cell,
        percent=wording.percent,
        plural=wording.plural,
        student_colours=8,
    )
    figures, split, samples = _latest_figures(run)
    several = figures is not None and len(figures.students) > 1
    predictions = run.predictions
    return environment.get_template("page.html.jinja").render(
        sample=run.sample,
        title=f"{run.summary.method} on {run.summary.data}",
        summary=run.summary,
        unfinished=wording.unfinished(run) if run.summary.status != "finished" else "",
        headline=wording.headline(run, figures, split, samples) if figures else [],
        selection=wording.selection(run, figures) if figures and run.figures else "",
        facts=facts(run, figures),
        figures=figures,
        several=several,
        split=split,
        columns=shown_figures(run.declared, figures.mean_student.keys(), len(run.class_names)) if figures else [],
        ensembles=wording.ENSEMBLES,
        validation=run.summary.validation if split == "test" else None,
        validation_panels=validation_panels(run),
        loss_panels=loss_panels(run),
        reliability=reliability_panels(run, several) if predictions else [],
        predicted=len(predictions.labels) if predictions else 0,
        disagreement=pairwise_disagreement(predictions.logits).tolist() if predictions and several else [],
        diversity=[
            (wording.diversity(key, run.sample), value)
            for key, value in figures.diversity.items()
            if key in wording.DIVERSITY
        ]
        if figures
        else [],
        attention=attention_panels(run, figures),
        attention_remark=wording.attention_remark(final_attention(run, figures), run.sample),
        confusion=confusion_section(run, figures.deployed_student) if predictions and figures else None,
        classes=class_table(run, figures) if run.figures and figures else None,
        sorts=SORTS,
        own=task_sections(run),
        disputed=disputed_cards(run),
        errors=error_cards(run, figures.deployed_student) if figures else [],
        recipe=run.folder.recipe.read_text(encoding="utf-8"),
        environment=yaml.safe_dump(run.environment.model_dump(), sort_keys=False, allow_unicode=True, width=100),
        command=shlex.join(run.environment.command),
    )


def _latest_figures(run: RunData) -> tuple[GroupFigures | None, str, int]:
    """Returns the final figures, or those of the last evaluation of an unfinished run, with the split and its number of samples."""
    summary = run.summary
    if run.figures is not None:
        samples = {"test": summary.num_test, "validation": summary.num_validation}.get(summary.split, summary.num_train)
        return run.figures, wording.SPLITS.get(summary.split, summary.split), samples
    if run.validation_rows:
        return run.validation_rows[-1], "validation", summary.num_validation
    return None, "", 0
