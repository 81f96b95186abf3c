"""Per-class figures and the confusion matrix."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from coterie.report.heat_map import heat_map, natural_width
from coterie.report.predictions import (
    Confusion,
    colour_depths,
    confusion_matrix,
    most_confused,
    similar_classes_together,
)
from coterie.report.run import GroupFigures, Predictions, RunData
from coterie.run_schema import ClassFigures

ORDERED_CLASSES = 20  # with more classes, the confusion matrix places similar ones next to each other
SHOWN_CLASSES = 100  # of more classes, only those with the most errors are shown
SORTS = {"f1": "F1", "recall": "recall", "precision": "precision", "support": "samples", "name": "name"}


class ClassRow(NamedTuple):
    """Figures of one class, and its position when the rows are sorted by each key of ``SORTS``."""

    figures: ClassFigures
    places: dict[str, int]


class ClassTable(NamedTuple):
    """``rows`` are sorted by F1, lowest first; ``total`` counts all classes."""

    rows: list[ClassRow]
    total: int
    balanced_accuracy: float


class ConfusionSection(NamedTuple):
    """``width`` is the full width of ``chart`` in pixels; it has ``shown`` of the classes ``names``."""

    names: list[str]
    pairs: list[Confusion]
    chart: Markup
    width: int
    shown: int


def class_table(run: RunData, figures: GroupFigures) -> ClassTable | None:
    """Builds the table of the deployed student's per-class figures; for runs that did not record them, from the saved predictions."""
    found, balanced = figures.per_class, figures.deployed.get("balanced_accuracy")
    if not found or balanced is None:
        if run.predictions is None:
            return None
        found, balanced = _counted_again(run, run.predictions, figures.deployed_student)
    shown = sorted(found, key=lambda each: _rank(each.f1))[:SHOWN_CLASSES]
    return ClassTable(_rows(shown), len(found), balanced)


def _counted_again(run: RunData, predictions: Predictions, student: int) -> tuple[list[ClassFigures], float]:
    import torch  # imported here only, because reports do not need it otherwise

    from coterie.metrics import balanced_accuracy, per_class_figures

    predicted = torch.as_tensor(predictions.logits[student].argmax(-1))
    counted = per_class_figures(predicted, torch.as_tensor(predictions.labels), run.class_names)
    return [ClassFigures.model_validate(each) for each in counted], balanced_accuracy(
        each["recall"] for each in counted
    )


def _rows(shown: list[ClassFigures]) -> list[ClassRow]:
    places: list[dict[str, int]] = [{} for _ in shown]
    for key in SORTS:
        order = sorted(range(len(shown)), key=lambda row: _sort_key(shown[row], key))
        for place, row in enumerate(order):
            places[row][key] = place
    return [ClassRow(figures, own) for figures, own in zip(shown, places, strict=True)]


def _sort_key(figures: ClassFigures, key: str) -> tuple[float, str]:
    if key == "name":
        return 0.0, figures.name.casefold()
    if key == "support":
        return -float(figures.support), ""
    value: float | None = getattr(figures, key)
    return _rank(value), ""


def _rank(value: float | None) -> float:
    """Returns a sort key: worst first, undefined values last."""
    return 2.0 if value is None else value


def confusion_section(run: RunData, student: int) -> ConfusionSection:
    """Builds the section with the deployed student's confusions."""
    assert run.predictions is not None
    counts = confusion_matrix(run.predictions.logits[student], run.predictions.labels)
    names = run.class_names
    errors = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
    order = np.sort(np.argsort(-errors, kind="stable")[:SHOWN_CLASSES])
    if len(names) > ORDERED_CLASSES:
        order = order[similar_classes_together(counts[np.ix_(order, order)])]
    shown = [names[each] for each in order]
    chart = heat_map(
        counts[np.ix_(order, order)],
        colour_depths(counts)[np.ix_(order, order)],
        shown,
        f"Confusion matrix of {len(order)} classes, rows true, columns predicted; the list of the commonest confusions says the same in words.",
    )
    return ConfusionSection(names, most_confused(counts), chart, natural_width(shown), len(order))
