"""Students of a finished language modeling run, and their predictions. See :class:`coterie.tasks.task.Deployed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from coterie.networks.hugging_face import config_of
from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.student import load_weights
from coterie.tasks.language.networks import build_causal_lm
from coterie.tasks.language.predict import continuations
from coterie.tasks.language.sources import shown_names
from coterie.tasks.prediction import Answer


def load_student(folder: RunFolder, description: dict[str, Any], network: nn.Module | None) -> nn.Module:
    """See :class:`coterie.tasks.task.Deployed`."""
    network = network or build_causal_lm(config_of(description["config"]))
    load_weights(network, folder)
    return network


def describe_network(recipe: Recipe, description: dict[str, Any], number: int) -> dict[str, Any]:
    """See :class:`coterie.tasks.task.Deployed`."""
    names = shown_names(recipe)
    return {"network": names[number if len(names) > 1 else 0], "config": description["configs"][number]}


def is_one(samples: Any) -> bool:
    """See :class:`coterie.tasks.task.Deployed`."""
    return isinstance(samples, str)


def predict(
    folder: RunFolder,
    network: nn.Module,
    description: dict[str, Any],
    samples: Sequence[Any],
    *,
    tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[Answer]:
    """Continue prompts by at most ``tokens`` tokens (64, or as many as the network has positions for), greedily or, with a ``temperature``, by sampling."""
    return continuations(folder, network, samples, tokens, temperature, top_p, seed)
