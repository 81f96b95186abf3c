"""Reads the state of a network and of random number generators, and restores a network."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


def generator_states() -> dict[str, bytes]:
    """Returns the states of all generators that a forward may draw from."""
    return {
        "Python's random": pickle.dumps(random.getstate()),
        "numpy.random": pickle.dumps(np.random.get_state()),
        "torch": bytes(torch.get_rng_state().numpy()),
    }


def state_of(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Returns the modules' attributes that a next call could read: plain values, generators, versions of buffers."""
    found: dict[str, Any] = {}
    for path, module in modules.items():
        prefix = f"{path}." if path else ""
        for name, value in vars(module).items():
            plain = _plain(value)
            if plain is not None and name not in _MODULE_ATTRIBUTES:
                found[prefix + name] = plain
        for name, buffer in module._buffers.items():
            if buffer is not None:
                found[prefix + name] = buffer._version
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return pickle.dumps(value.get_state())
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().numpy())
    if isinstance(value, Tensor):
        return (tuple(value.shape), str(value.dtype), repr(value.detach().nan_to_num().sum().item()))
    if isinstance(value, list | tuple | set | frozenset) or type(value) is dict:
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
        return (len(parts), [_plain(part) for part in parts if not isinstance(part, list | tuple | dict | set)])
    return None


@contextlib.contextmanager
def unchanged(network: nn.Module, traced: Mapping[str, nn.Module]) -> Iterator[None]:
    """Restores modes, attributes and buffers, since a traced forward may have stored its symbolic values in them."""
    modes = [(module, module.training) for module in network.modules()]
    attributes = [(module, dict(vars(module))) for module in traced.values()]
    lists = [(value, list(value)) for _, held in attributes for value in held.values() if isinstance(value, list)]
    tables = [(value, dict(value)) for _, held in attributes for value in held.values() if type(value) is dict]
    buffers = [
        (buffer, buffer.clone())
        for module in traced.values()
        for buffer in module._buffers.values()
        if buffer is not None
    ]
    versions = [buffer._version for buffer, _ in buffers]
    try:
        yield
    finally:
        for module, held in attributes:
            vars(module).clear()
            vars(module).update(held)
        for values, copy in lists:
            values[:] = copy
        for table, known in tables:
            table.clear()
            table.update(known)
        for (buffer, value), version in zip(buffers, versions, strict=True):
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(value)
        for module, mode in modes:
            module.training = mode
