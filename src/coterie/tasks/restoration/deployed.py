"""The network of a finished restoration run, and images enlarged by it. See :class:`coterie.tasks.task.Deployed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import nn

from coterie.errors import CoterieError
from coterie.networks.one_step.generator import OneStepGenerator, build_generator
from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.student import load_weights
from coterie.tasks.prediction import Answer
from coterie.tasks.restoration.networks import display_name
from coterie.tasks.restoration.predict import enlarge


def load_student(folder: RunFolder, description: dict[str, Any], network: nn.Module | None) -> nn.Module:
    """See :class:`coterie.tasks.task.Deployed`."""
    network = network or build_generator(description["generator"])
    load_weights(network, folder)
    return network


def describe_network(recipe: Recipe, description: dict[str, Any], number: int) -> dict[str, Any]:
    """See :class:`coterie.tasks.task.Deployed`."""
    return {"network": display_name(recipe), "generator": description["generator"]}


def is_one(samples: Any) -> bool:
    """Return whether this is one image, and not several."""
    return isinstance(samples, (str, Path, Image.Image)) or (isinstance(samples, np.ndarray) and samples.ndim < 4)


def predict(
    folder: RunFolder,
    network: nn.Module,
    description: dict[str, Any],
    samples: Sequence[Any],
    *,
    output: str = "",
    tile: int = 0,
    overlap: int = 0,
) -> Iterator[Answer]:
    """Enlarge images and write them as PNG files to the folder ``output``, in tiles of ``tile`` large pixels that overlap by ``overlap`` (0: the run's values)."""
    if not isinstance(output, (str, Path)):
        raise CoterieError(f"output={output!r}: expected a folder")
    tile, overlap = tile or description["tile"], overlap or description["overlap"]
    if 2 * overlap > tile:
        raise CoterieError(f"overlap={overlap} is above half of tile={tile}")
    return iter(enlarge(cast(OneStepGenerator, network), samples, str(output), tile, overlap))
