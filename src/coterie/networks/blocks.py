"""Blocks of a transformers model: locates them, and reduces a state and configuration to some of them.

Source: DistilBERT's initialisation (Sanh et al., 2019, arXiv 1910.01108, section 3), which copies every second layer of the teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from coterie.errors import CoterieError


def kept_layers(count: int, *, layers: Sequence[int] | None = None, every: int | None = None) -> list[int]:
    """Returns the numbers of the blocks to keep, from 0.

    Args:
        count: number of the teacher's blocks.
        layers: numbers of the blocks to keep.
        every: keeps every n-th block, including the first.

    Raises:
        CoterieError: both or neither given, or numbers out of bounds, twice or out of order.

    >>> kept_layers(7, every=3)
    [0, 3, 6]
    """
    if (layers is None) == (every is None):
        raise CoterieError("expected layers=[0,3,6] or every=3, one of them")
    if every is not None:
        if every < 1:
            raise CoterieError(f"every={every}: expected 1 or more")
        return list(range(0, count, every))
    assert layers is not None
    kept = list(layers)
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= count:
        raise CoterieError(
            f"layers={kept}: expected rising numbers from 0 to {count - 1}, the network has {count} layers"
        )
    return kept


def blocks_path(network: nn.Module) -> str:
    """Returns the path of the list of a network's blocks.

    Raises:
        CoterieError: no list, or several lists, have as many modules as the configuration has layers.
    """
    config: Any = network.config
    found = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) != 1:
        lists = ", ".join(outer) or "none"
        raise CoterieError(
            f"{type(network).__name__} shows {lists} where one list of {config.num_hidden_layers} blocks was expected; it cannot be cut"
        )
    return outer[0]


def cut_state(network: nn.Module, kept: Sequence[int]) -> dict[str, Tensor]:
    """Returns the network's state with these blocks only, renumbered."""
    path = blocks_path(network)
    places = {f"{path}.{old}.": f"{path}.{new}." for new, old in enumerate(kept)}
    state = {}
    for name, value in network.state_dict().items():
        if not name.startswith(f"{path}."):
            state[name] = value
        elif place := next((old for old in places if name.startswith(old)), None):
            state[places[place] + name.removeprefix(place)] = value
    return state


def config_with(config: Any, kept: Sequence[int]) -> Any:
    """Returns the configuration with these layers only."""
    cut = copy.deepcopy(config)
    count = int(config.num_hidden_layers)
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list | tuple) and len(value) == count:
            setattr(cut, name, [value[number] for number in kept])
    cut.num_hidden_layers = len(kept)
    return cut
