"""Checks a method's constructor arguments against its type hints, so that a recipe's mistakes are reported in one line."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model

from coterie.errors import CoterieError, did_you_mean
from coterie.methods.method import method_name

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


def check_options(method: type, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options converted to the types that the constructor declares.

    Raises:
        CoterieError: an unknown argument, or a value of the wrong type or out of bounds.
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
    return {key: getattr(checked, key) for key in options} | passed_on
