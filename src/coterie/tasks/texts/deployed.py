"""Functions for finished text runs: loading students and predicting. See :class:`coterie.tasks.task.Deployed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.student import load_weights
from coterie.tasks.prediction import Answer, require_top
from coterie.tasks.texts.networks import shown, student_names
from coterie.tasks.texts.predict import predict_texts
from coterie.tasks.texts.sequence_classifier import build_classifier


def load_student(folder: RunFolder, description: dict[str, Any], network: nn.Module | None) -> nn.Module:
    """See :class:`coterie.tasks.task.Deployed`."""
    network = network or build_classifier(description["config"])
    load_weights(network, folder)
    return network


def describe_network(recipe: Recipe, description: dict[str, Any], number: int) -> dict[str, Any]:
    """See :class:`coterie.tasks.task.Deployed`."""
    names = student_names(recipe)
    return {"network": shown(names[number if len(names) > 1 else 0]), "config": description["configs"][number]}


def is_one(samples: Any) -> bool:
    """See :class:`coterie.tasks.task.Deployed`."""
    return isinstance(samples, str)


def predict(
    folder: RunFolder, network: nn.Module, description: dict[str, Any], samples: Sequence[Any], *, top: int = 5
) -> Iterator[Answer]:
    """See :class:`coterie.tasks.task.Deployed`."""
    return predict_texts(folder, network, description, samples, require_top(top))
