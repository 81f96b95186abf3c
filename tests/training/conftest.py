from __future__ import annotations

from typing import Any

import pytest

# Two branches of a tiny network on a few hundred digits: about half a second an epoch.
SMALL: dict[str, Any] = {
    "data": {"name": "digits", "train_limit": 200},
    "network": {"name": "tiny_cifar", "branches": 2},
    "training": {"epochs": 2, "batch_size": 32, "log_every": 3, "device": "cpu"},
}


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(tree)
    for key, value in changes.items():
        result[key] = (
            merged(result[key], value) if isinstance(result.get(key), dict) and isinstance(value, dict) else value
        )
    return result


@pytest.fixture
def small():
    """Settings of a small run; ``small(training={"epochs": 3})`` changes some."""
    return lambda **changes: merged(SMALL, changes)
