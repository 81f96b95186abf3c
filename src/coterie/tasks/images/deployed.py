"""Functions for finished image runs: loading students and predicting. See :class:`coterie.tasks.task.Deployed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from coterie.networks.creation import create_network
from coterie.networks.options import require_harmless_options
from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.student import load_weights
from coterie.tasks.images.networks import network_names, network_options
from coterie.tasks.images.predict import predict_pictures
from coterie.tasks.images.student import prepared_for
from coterie.tasks.prediction import Answer, require_top


def load_student(folder: RunFolder, description: dict[str, Any], network: nn.Module | None) -> nn.Module:
    """See :class:`coterie.tasks.task.Deployed`."""
    if network is None:
        require_harmless_options(description["options"], "student.json: options")
        network = create_network(
            description["network"], num_classes=description["num_classes"], **description["options"]
        )
    load_weights(network, folder)
    if description["network"] is not None and hasattr(network, "pretrained_cfg"):
        network.pretrained_cfg = {**prepared_for(network, description), "label_names": description["class_names"]}  # type: ignore[assignment]
    return network


def describe_network(recipe: Recipe, description: dict[str, Any], number: int) -> dict[str, Any]:
    """See :class:`coterie.tasks.task.Deployed`."""
    if description["network"] is None:
        return {"network": None, "options": {}}
    names = network_names(recipe)
    name = names[number if len(names) > 1 else 0]
    return {"network": name, "options": network_options(recipe, name, tuple(description["input_size"]))}


def is_one(samples: Any) -> bool:
    """Whether ``samples`` is a single image."""
    return isinstance(samples, (str, Path, Image.Image)) or (isinstance(samples, np.ndarray) and samples.ndim < 4)


def predict(
    folder: RunFolder, network: nn.Module, description: dict[str, Any], samples: Sequence[Any], *, top: int = 5
) -> Iterator[Answer]:
    """See :class:`coterie.tasks.task.Deployed`."""
    return predict_pictures(network, description, samples, require_top(top))
