"""Checks before training that batches are large enough for the method and the networks."""

from __future__ import annotations

import copy

import torch

from coterie.data.batch import TrainLoader
from coterie.data.nested import moved
from coterie.errors import CoterieError
from coterie.methods.method import Method
from coterie.recipe import Recipe
from coterie.recipe.sections import resolved

NORMALIZATION = "more than 1 value per channel"  # from torch's error for BatchNorm over one value


def require_enough_samples(recipe: Recipe, method: Method, loader: TrainLoader, num_processes: int = 1) -> None:
    """Refuse batches that are too small. All batches of an epoch have the same size, because the last incomplete one is dropped.

    Raises:
        CoterieError: the method compares more samples than a batch holds, or BatchNorm would get one value per channel.
    """
    asked, there = resolved(recipe.training.batch_size), loader.num_samples
    size = min(asked, there) // num_processes
    place = f"training.batch_size={asked}" if asked <= there else f"the {there} training sample(s)"
    if num_processes > 1:
        place = f"{place} over {num_processes} processes"
    if size < method.min_batch:
        raise CoterieError(
            f"method={recipe.method.name} compares the samples of a batch and needs at least {method.min_batch} of them; {place} gives {size}"
        )
    if size == 1 and _normalizes_one_value(method, loader):
        raise CoterieError(
            f"BatchNorm sees one value for each channel in a batch of one sample and needs at least 2; {place} gives 1. "
            "Raise it, or take a network without BatchNorm"
        )


def _normalizes_one_value(method: Method, loader: TrainLoader) -> bool:
    """Runs one forward pass of a copy in train mode; returns whether BatchNorm raises. Statistics and generators are not affected."""
    trial = copy.deepcopy(method).train()
    device = next(trial.parameters()).device
    batch = next(iter(loader.epoch(0)))
    inputs = moved(batch.inputs, device)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            trial(inputs, batch.targets.to(device))
    except ValueError as error:
        if NORMALIZATION in str(error):
            return True
        raise
    return False
