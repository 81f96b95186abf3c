"""The charts of a run's report, each with its title and legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from coterie.report import wording
from coterie.report.figures import (
    ACCENT,
    INK,
    MUTED,
    STUDENT_COLOURS,
    Line,
    line_chart,
    reliability_chart,
    student_colour,
)
from coterie.report.predictions import reliability
from coterie.report.run import GroupFigures, RunData, ValidationRow


class LegendEntry(NamedTuple):
    label: str
    colour: str  # a CSS variable of the page
    dashed: bool = False


class Panel(NamedTuple):
    """One chart with its title."""

    title: str
    note: str
    chart: Markup
    legend: Sequence[LegendEntry] = ()


def student_variable(number: int) -> str:
    """Returns the page's CSS variable for the colour of a student, as in the charts."""
    return f"--student-{number % STUDENT_COLOURS}"


def loss_panels(run: RunData) -> list[Panel]:
    """Returns a chart for each loss term, and one for the learning rate."""
    rows = run.train_rows
    if not rows:
        return []
    # The last row of an epoch is written at its last step, so the maximum of this ratio is the number of steps in an epoch.
    steps = max(row.step / (row.epoch + 1) for row in rows)
    panels = []
    for name in dict.fromkeys(name for row in rows for name in row.losses):
        points = [(row.step / steps, row.losses[name]) for row in rows if name in row.losses]
        x, y = zip(*points, strict=True)
        description = f"Loss term {name} over training: {y[0]:.4g} at first, {y[-1]:.4g} at the end."
        panels.append(Panel(name, wording.LOSSES.get(name, ""), line_chart([Line(x, y)], description)))
    places, rates = [row.step / steps for row in rows], [row.learning_rate for row in rows]
    description = f"Learning rate over training: at most {max(rates):.4g}, {rates[-1]:.4g} at the end."
    panels.append(
        Panel(
            "learning rate", run.recipe.schedule.name, line_chart([Line(places, rates, MUTED)], description, bottom=0)
        )
    )
    return panels


def validation_panels(run: RunData) -> list[Panel]:
    """Returns charts over training: the primary figure on the validation split and, if it is measured, the students' disagreement."""
    rows = run.validation_rows
    if not rows:
        return []
    first = run.declared[0]
    key = first.key
    epochs = [row.epoch + 1 for row in rows]
    lines, legend = [], []
    if len(rows[0].students) > 1:
        lines.append(Line(epochs, [row.mean_student[key] for row in rows], MUTED, dashed=True))
        legend.append(LegendEntry("mean student", "--muted", True))
        if all("method" in row.ensemble for row in rows):
            lines.append(Line(epochs, [row.ensemble["method"][key] for row in rows], INK))
            legend.append(LegendEntry("method’s ensemble", "--ink"))
        legend.insert(0, LegendEntry("deployed student", "--accent"))
    deployed = [row.deployed[key] for row in rows]
    lines.append(Line(epochs, deployed, ACCENT, width=2.2))
    last = wording.value_of(first, deployed[-1])
    description = (
        f"Validation {first.label} over training; {last} at the end{' for the deployed student' if legend else ''}."
    )
    chart = line_chart(lines, description, width=440, height=270, percent=first.is_share)
    panels = [Panel(f"Validation {first.label}", "", chart, legend)]
    disagreement = [row.diversity["disagreement"] for row in rows if "disagreement" in row.diversity]
    if len(disagreement) == len(rows):
        description = f"Share of validation {run.sample}s on which two students disagree, over training; {disagreement[-1]:.2%} at the end."
        chart = line_chart([Line(epochs, disagreement)], description, width=440, height=270, percent=True, bottom=0)
        panels.append(Panel("Disagreement on validation", "mean over pairs of students", chart))
    return panels


def final_attention(run: RunData, figures: GroupFigures | None) -> list[float]:
    """Returns the final weight of each branch, [n]; empty for methods without attention over several branches."""
    latest = [figures] if figures else []
    for each in [*latest, *reversed(run.validation_rows)]:
        if isinstance(each.statistics.get("attention"), list) and len(_attention(each)) > 1:
            return _attention(each)
    return []


def attention_panels(run: RunData, figures: GroupFigures | None) -> list[Panel]:
    """Returns charts of the ensemble's attention to each branch and of its entropy over training; empty for methods without attention."""
    rows = [row for row in run.validation_rows if isinstance(row.statistics.get("attention"), list)]
    if not rows or len(_attention(rows[0])) < 2:
        return []
    epochs = [row.epoch + 1 for row in rows]
    weights = np.array([_attention(row) for row in rows])
    branches = weights.shape[1]
    lines = [Line(epochs, weights[:, branch], student_colour(branch)) for branch in range(branches)]
    final = final_attention(run, figures)
    legend = [
        LegendEntry(f"student {branch}: {wording.percent(final[branch])}", student_variable(branch))
        for branch in range(branches)
    ]
    legend.append(LegendEntry("equal weights", "--muted", True))
    description = (
        "Attention to each branch over training; at the end " + ", ".join(entry.label for entry in legend[:-1]) + "."
    )
    chart = line_chart(lines, description, width=440, height=270, percent=True, level=1 / branches)
    panels = [
        Panel(
            "Weight of each branch",
            f"mean over validation {run.sample}s; the legend gives the final values",
            chart,
            legend,
        )
    ]
    entropy = [row.statistics.get("attention_entropy") for row in rows]
    values = [value for value in entropy if isinstance(value, (int, float))]
    if len(values) == len(rows):
        description = (
            f"Entropy of the attention over training, as a share of the largest possible; {values[-1]:.3f} at the end."
        )
        chart = line_chart([Line(epochs, values)], description, width=440, height=270, level=1)
        note = f"as a share of the largest possible: 1 is equal weights, 0 a single branch; mean over {run.sample}s"
        panels.append(Panel("Entropy of the weights", note, chart))
    return panels


def _attention(figures: GroupFigures | ValidationRow) -> list[float]:
    value = figures.statistics["attention"]
    return value if isinstance(value, list) else [value]


def reliability_panels(run: RunData, several: bool) -> list[Panel]:
    """Returns reliability diagrams of the deployed student and, if there are several students, of the method's ensemble."""
    assert run.predictions is not None
    assert run.figures is not None
    student = run.figures.deployed_student
    name = f"Student {student}, deployed" if several else "The network"
    classifiers = [(name, run.predictions.logits[student])]
    if several and "method" in run.figures.ensemble:
        classifiers.append((wording.ENSEMBLES["method"], run.predictions.ensemble))
    panels = []
    for title, logits in classifiers:
        bins = reliability(logits, run.predictions.labels)
        values = {
            "mean confidence": np.nansum(bins.share * bins.confidence),
            "accuracy": np.nansum(bins.share * bins.accuracy),
            "ECE": np.nansum(bins.share * np.abs(bins.accuracy - bins.confidence)),
        }
        note = ", ".join(f"{term} {wording.percent(float(value))}" for term, value in values.items())
        panels.append(Panel(title, note, reliability_chart(bins, f"Reliability diagram. {title}: {note}.")))
    return panels
