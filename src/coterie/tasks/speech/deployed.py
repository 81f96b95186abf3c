"""The student of a finished speech run, and its features of new clips. See :class:`coterie.tasks.task.Deployed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.student import load_weights
from coterie.tasks.prediction import Answer
from coterie.tasks.speech.networks import build_encoder
from coterie.tasks.speech.predict import features_of


def load_student(folder: RunFolder, description: dict[str, Any], network: nn.Module | None) -> nn.Module:
    """See :class:`coterie.tasks.task.Deployed`."""
    network = network or build_encoder(description["config"])
    load_weights(network, folder)
    return network


def describe_network(recipe: Recipe, description: dict[str, Any], number: int) -> dict[str, Any]:
    """See :class:`coterie.tasks.task.Deployed`."""
    return {"network": description["network"], "config": description["config"]}


def is_one(samples: Any) -> bool:
    """See :class:`coterie.tasks.task.Deployed`. An array is one clip."""
    return not isinstance(samples, (list, tuple)) or isinstance(samples, (np.ndarray, Tensor))


def predict(
    folder: RunFolder,
    network: nn.Module,
    description: dict[str, Any],
    samples: Sequence[Any],
    *,
    layer: int = -1,
    output: str = "features",
) -> Iterator[Answer]:
    """Compute features of each clip and the times of their frames; those of a file are written to the folder ``output`` (empty: they are not written)."""
    return features_of(network, description, samples, layer, output)
