"""Sorts the Python objects passed to ``coterie.train`` into data, networks and teachers, and refuses other types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from coterie.data.objects import to_datasets
from coterie.errors import CoterieError
from coterie.networks.branching import NetworkSource


@dataclass
class Arguments:
    """Recipe ``sections`` that were passed by name, and the objects that replace what a recipe names."""

    sections: dict[str, Any] = field(default_factory=dict)
    datasets: Any = None
    network: NetworkSource | None = None
    teachers: list[nn.Module] = field(default_factory=list)


def sort_arguments(data: Any = None, network: Any = None, teacher: Any = None) -> Arguments:
    """Separate names and sections of the recipe from objects.

    Raises:
        CoterieError: an argument has a type that is not accepted for data, network or teacher.
    """
    found = Arguments()
    if isinstance(data, (str, Path)):
        found.sections["data"] = str(data)
    elif isinstance(data, Mapping) and not ({"train", "training"} & {str(key).lower() for key in data}):
        found.sections["data"] = dict(data)
    elif data is not None:
        to_datasets(data)
        found.datasets = data
    if _names(network):
        found.sections["network"] = _named(network)
    elif network is not None:
        found.network = require_network(network)
    if isinstance(teacher, (str, Path)):
        found.sections["teacher"] = str(teacher)
    elif isinstance(teacher, Mapping):
        found.sections["teacher"] = dict(teacher)
    elif isinstance(teacher, nn.Module):
        found.teachers = [teacher]
    elif teacher is not None:
        _add_teachers(found, teacher)
    return found


def _add_teachers(found: Arguments, teacher: Any) -> None:
    several = list(teacher) if isinstance(teacher, (list, tuple)) else []
    if several and all(isinstance(each, nn.Module) for each in several):
        found.teachers = several
    elif several and all(isinstance(each, (str, Path, Mapping)) for each in several):
        found.sections["teachers"] = [dict(each) if isinstance(each, Mapping) else str(each) for each in several]
    else:
        raise CoterieError(
            f"teacher={_kind(teacher)}: expected a run's folder, a section of the recipe, a trained module, or a list of one kind of these"
        )


def _names(network: Any) -> bool:
    if isinstance(network, (list, tuple)):
        return bool(network) and all(isinstance(each, (str, Path)) for each in network)
    return isinstance(network, (str, Path, Mapping))


def _named(network: Any) -> Any:
    if isinstance(network, Mapping):
        return dict(network)
    return [str(each) for each in network] if isinstance(network, (list, tuple)) else str(network)


def require_network(network: Any) -> NetworkSource:
    """Returns ``network`` if it is a module or a callable.

    Raises:
        CoterieError: it is neither.
    """
    if isinstance(network, (nn.Module, Callable)):  # type: ignore[arg-type]
        return network
    raise CoterieError(
        f"network={_kind(network)}: expected a timm name or a list of names, a section of the recipe, a module, or a callable that builds one"
    )


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        inside = ", ".join(sorted({type(each).__name__ for each in value})) or "nothing"
        return f"{type(value).__name__} of {inside}"
    return type(value).__name__
