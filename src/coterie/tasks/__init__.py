"""The kinds of problem that coterie knows, one row each: names only, so that importing this imports none of them.

A kind of one's own is named ``task=package.module:Class`` and brings as attributes of its class what a row names here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Row(NamedTuple):
    """Where the parts of a task stand, each as ``module:name``.

    Attributes:
        line: what the task is, in a line.
        kind: the :class:`coterie.tasks.task.TaskKind`.
        figures: its figures, a tuple of :class:`coterie.tasks.figures.Figure`, the first of which is the primary one.
        sample: what one sample is called; not a place.
    """

    line: str
    kind: str
    figures: str
    sample: str


UNNAMED = "image_classification"  # of a run that does not say: it was written when there was no other

TASKS: Mapping[str, Row] = {
    "image_classification": Row(
        "Images to classes.",
        "coterie.tasks.images.task:ImageClassification",
        "coterie.tasks.figures:CLASSIFICATION",
        "image",
    ),
    "text_classification": Row(
        "Texts, or pairs of texts, to classes.",
        "coterie.tasks.texts.task:TextClassification",
        "coterie.tasks.figures:CLASSIFICATION",
        "text",
    ),
}


def find_part(task: str, part: Literal["kind", "figures"]) -> Any:
    """A part of a task, imported when it is asked for.

    Args:
        task: a key of :data:`TASKS`, or ``package.module:Class``.
        part: which.
    """
    row = TASKS.get(task)
    module, _, name = (task if row is None else getattr(row, part)).partition(":")
    found = getattr(importlib.import_module(module), name)
    return found if row is not None or part == "kind" else getattr(found, part)


def sample_of(task: str) -> str:
    """What one sample of a run's task is called. A kind of one's own says so once it is imported, which is not done for this."""
    if task in TASKS:
        return TASKS[task].sample
    module, _, name = task.partition(":")
    return str(getattr(getattr(sys.modules.get(module), name, None), "sample", "sample"))
