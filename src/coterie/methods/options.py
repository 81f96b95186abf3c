"""Checks a method's constructor arguments against its type hints, so that a recipe's mistakes are reported in one line.

It also refuses arguments that have no effect together with others, as ``Method.unused`` declares them.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model

from coterie.errors import CoterieError, did_you_mean
from coterie.methods.method import Unused, method_name

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1)]
PASSED_ON = frozenset({"label_loss", "teachers"})  # set elsewhere in a recipe


def option_fields(method: type) -> dict[str, tuple[Any, Any]]:
    """Returns name -> (type, default) of the constructor arguments that a recipe can set. Networks come first, have no default and are excluded."""
    hints = get_type_hints(method.__init__, include_extras=True)  # type: ignore[misc]
    parameters = inspect.signature(method).parameters.values()
    return {
        p.name: (hints.get(p.name, Any), p.default)
        for p in parameters
        if p.name not in PASSED_ON and (p.kind is p.KEYWORD_ONLY or p.default is not p.empty)
    }


def check_options(
    method: type, options: dict[str, Any], unused: Literal["refuse", "drop"] = "refuse"
) -> dict[str, Any]:
    """Returns the options converted to the types that the constructor declares.

    Args:
        method: the method's class.
        options: the arguments that are set.
        unused: what happens to arguments that have no effect together with the others, see :func:`unused_options`. ``drop`` is for runs that exist already.

    Raises:
        CoterieError: an unknown argument, a value of the wrong type or out of bounds, or an argument without effect.
    """
    passed_on = {key: options[key] for key in PASSED_ON if key in options}
    options = {key: value for key, value in options.items() if key not in passed_on}
    fields = option_fields(method)
    for key in options:
        if key not in fields:
            known = ", ".join(fields) or "no settings"
            raise CoterieError(
                f"unknown setting 'method.{key}' of method={method_name(method)}{did_you_mean(key, fields)}; it takes {known}"
            )
    model = create_model("Options", __config__=ConfigDict(arbitrary_types_allowed=True), **fields)  # type: ignore[call-overload]
    try:
        checked = model(**options)
    except ValidationError as error:
        first = error.errors()[0]
        # After the argument's name keep only list indices: the rest names alternatives of its type.
        location = ".".join(str(part) for place, part in enumerate(first["loc"]) if place == 0 or isinstance(part, int))
        message = first["msg"]
        raise CoterieError(f"method.{location}={first['input']!r}: {message[0].lower()}{message[1:]}") from None
    values = {key: getattr(checked, key) for key in options}
    while idle := unused_options(method, values):
        name, key = next(iter(idle.items()))
        if unused == "refuse":
            raise CoterieError(_message(method, values, name, key))
        del values[name]  # one at a time: an argument without effect may be why another one has none
    return values | passed_on


class Condition(NamedTuple):
    """One part of a key of :data:`coterie.methods.method.Unused`: ``option=value``, or ``option!=value``."""

    option: str
    value: str
    differs: bool

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it holds of a method's arguments; an argument that the constructor lacks meets no condition."""
        return self.option in values and (spelled(values[self.option]) == self.value) != self.differs


def conditions(key: str) -> list[Condition]:
    """Parts of a key of :data:`coterie.methods.method.Unused`, all of which must hold."""
    found = []
    for part in key.split():
        option, _, value = part.partition("=")
        found.append(Condition(option.removesuffix("!"), value, option.endswith("!")))
    return found


def spelled(value: Any) -> str:
    """A value as a recipe has it: ``true``, ``null``, ``0``."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def unused_options(method: type, options: Mapping[str, Any]) -> dict[str, str]:
    """Returns the arguments that differ from their defaults and have no effect together with the others, each with the declared condition that holds.

    Args:
        method: the method's class.
        options: the arguments that are set, converted to their types.
    """
    defaults = {name: default for name, (_, default) in option_fields(method).items()}
    effective = {**defaults, **options}
    changed = [name for name, value in options.items() if name in defaults and value != defaults[name]]
    declared: Unused = getattr(method, "unused", {})
    found: dict[str, str] = {}
    for key, names in declared.items():
        if all(each.holds(effective) for each in conditions(key)):
            found |= {name: key for name in changed if name in names and name not in found}
    return found


def _message(method: type, options: Mapping[str, Any], name: str, key: str) -> str:
    """One line that says which argument has no effect, and, if the cause is a default, what to set."""
    fields = option_fields(method)
    effective = {option: default for option, (_, default) in fields.items()} | dict(options)
    causes = [each.option for each in conditions(key)]
    because = " and ".join(f"method.{each}={spelled(effective[each])}" for each in causes)
    message = f"method.{name}={spelled(options[name])} has no effect with {because}"
    if any(effective[each] != fields[each][1] for each in causes):
        return message
    message += f", the default{'s' if len(causes) > 1 else ''}"
    return f"{message}; set {_remedy(method, effective, name, causes[0])}"


def _remedy(method: type, effective: Mapping[str, Any], name: str, cause: str) -> str:
    """What to set so that an argument has an effect: ``method.perceptual=dists or ea_dists``."""
    values = [
        spelled(each)
        for each in choices(option_fields(method)[cause][0])
        if name not in unused_options(method, {**effective, cause: each})
    ]
    if values:
        return f"method.{cause}={', '.join(values[:-1])}{' or ' if len(values) > 1 else ''}{values[-1]}"
    return f"method.{cause} above 0" if effective[cause] == 0 else f"another method.{cause}"


def choices(kind: Any) -> Iterator[Any]:
    """The values that a type lists: of literals, of ``bool``, and of unions and annotated types that hold some."""
    if kind is bool:
        yield from (True, False)
    elif get_origin(kind) is Literal:
        yield from get_args(kind)
    else:
        for part in get_args(kind):
            yield from choices(part)
