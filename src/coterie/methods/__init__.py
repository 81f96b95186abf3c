"""The table of methods by name. Classes are imported on access."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.errors import CoterieError, did_you_mean
from coterie.methods.table import TABLE

if TYPE_CHECKING:
    from coterie.methods.method import Method
    from coterie.networks.group import StudentGroup


def find_method(name: str) -> type[Method]:
    """Returns the class of a method by its name, or by ``package.module:Class`` for a custom method.

    The latter runs that module's code, so the name must come from the user. For names in a file, :func:`coterie.recipe.load_recipe` asks for permission.

    Raises:
        CoterieError: unknown name, module or class, or a class that is not a ``Method``.
    """
    if ":" not in name:
        if name not in TABLE:
            raise CoterieError(
                f"unknown method {name!r}{did_you_mean(name, TABLE)}; expected one of {', '.join(TABLE)} or package.module:Class"
            )
        name = TABLE[name].location
    elif (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that it shadows no installed package; and only if asked for
    module_name, _, class_name = name.partition(":")
    from coterie.methods.method import Method

    try:
        found: Any = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CoterieError(f"cannot import the method {name!r}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise CoterieError(f"{name!r} is not a method: expected a subclass of coterie.methods.Method")
    return found


def create_method(name: str, group: StudentGroup, **options: Any) -> Method:
    """Builds a method on a group of students.

    Args:
        name: a name of ``METHODS`` or ``package.module:Class``.
        group: the students.
        options: constructor arguments, checked against their type hints.

    Raises:
        CoterieError: unknown method or argument (with the closest valid name), or an invalid value.
    """
    from coterie.methods.options import check_options
    from coterie.networks.group import StudentGroup as Group

    if not isinstance(name, str):
        raise CoterieError(
            f"create_method(name, group): the name is {type(name).__name__}, expected text such as 'okdmde'"
        )
    found = find_method(name)
    from coterie.methods.group_method import GroupMethod

    if not issubclass(found, GroupMethod):
        raise CoterieError(f"{name} trains no group of students that give logits: it belongs to another task")
    if not isinstance(group, Group):
        raise CoterieError(
            f"create_method({name!r}, group): the group is {type(group).__name__}; make one by coterie.branch(network) or StudentGroup.of([a, b])"
        )
    return found(group, **check_options(found, options))


class _Methods(Mapping[str, "type[Method]"]):
    """Maps names to classes, which are imported on access."""

    def __getitem__(self, name: str) -> type[Method]:
        if name not in TABLE:
            raise KeyError(name)
        return find_method(name)

    def __iter__(self) -> Iterator[str]:
        return iter(TABLE)

    def __len__(self) -> int:
        return len(TABLE)


METHODS: Mapping[str, type[Method]] = _Methods()


def __getattr__(name: str) -> Any:
    """Resolves ``coterie.methods.OKDMDE``, ``Method``, ``GroupMethod``, ``Progress`` and ``Predictions``, and imports torch only then."""
    if name == "Method":
        return importlib.import_module("coterie.methods.method").Method
    if name in {"GroupMethod", "Predictions"}:
        return getattr(importlib.import_module("coterie.methods.group_method"), name)
    if name == "Progress":
        return importlib.import_module("coterie.methods.progress").Progress
    for entry in TABLE.values():
        module_name, _, class_name = entry.location.partition(":")
        if name == class_name:
            return getattr(importlib.import_module(module_name), class_name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
