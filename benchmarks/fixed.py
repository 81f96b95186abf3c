"""Fixed values for settings that are otherwise automatic (``auto``). The committed figures of the benchmarks belong to these values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIXED: dict[str, dict[str, Any]] = {
    "data": {"image_size": None, "crop_scale": None},
    "network": {"pretrained": False, "hold_statistics": False},
    "optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "exclude_norm_and_bias": False},
    "schedule": {"warmup_epochs": 0.0},
    "training": {"epochs": 30, "batch_size": 128, "select": "last"},
}


def fixed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe with these values for settings that it does not set.

    >>> fixed({"data": "digits", "training": {"epochs": 3}})["training"]
    {'epochs': 3, 'batch_size': 128, 'select': 'last'}
    """
    sections = {
        key: {"name": value} if isinstance(value, str) and key in FIXED else value for key, value in recipe.items()
    }
    return {**sections, **{key: values | sections.get(key, {}) for key, values in FIXED.items()}}
