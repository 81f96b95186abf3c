"""Writes docs/recipe.md from the pydantic models of coterie.recipe, so that the reference cannot fall behind them."""

from __future__ import annotations

import inspect
import json
import types
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coterie.methods import METHODS
from coterie.methods.options import option_fields
from coterie.recipe import Recipe, section_of

INTRODUCTION = """# Recipe reference

Written by `docs/make_recipe_reference.py` from the models in `coterie.recipe`.

A recipe is a YAML file with the sections below; every setting can also be given on the command line as `section.key=value`. `data: digits`
is short for `data: {name: digits}`, and so for `network` and `method`. Values are checked before anything is loaded; unknown keys are
refused, and the nearest right spelling is named.
"""


def type_name(annotation: object) -> str:
    """A type as a reader of YAML would call it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is typing.Literal:
        return " \\| ".join(str(value) for value in arguments)
    if origin in {typing.Union, types.UnionType}:
        return " \\| ".join(type_name(each) for each in arguments)
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "sections like `teacher`, or run folders"
    names = {int: "integer", float: "number", bool: "true \\| false", str: "text", type(None): "null"}
    return names[annotation]  # type: ignore[index]


def default_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def row(name: str, field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(limit, attribute):g}"
        for limit in field.metadata
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if hasattr(limit, attribute)
    ]
    kind = type_name(field.annotation) + (f", {', '.join(bounds)}" if bounds else "")
    return f"| `{name}` | {kind} | `{default_text(field.get_default(call_default_factory=True))}` | {field.description or ''} |"


def methods() -> list[str]:
    """What each method adds to its section; the meaning stands in the method's page and docstring."""
    parts = []
    for name, method in METHODS.items():
        options = option_fields(method)
        if options:
            parts += [
                f"`method.name={name}` (see `coterie.methods.{method.__name__}` and [its page](methods/{name}.md)):",
                "",
            ]
            parts += ["| key | value | default |", "|---|---|---|"]
            parts += [
                f"| `method.{key}` | {type_name(kind)} | `{default_text(value)}` |"
                for key, (kind, value) in options.items()
            ]
            parts.append("")
    return parts


def reference() -> str:
    parts = [INTRODUCTION]
    for name, field in Recipe.model_fields.items():
        if section := section_of(field.annotation):
            parts.append(
                f"## {name}\n\n{inspect.cleandoc(section.__doc__ or '')}".rstrip()
                + "\n\n| key | value | default | meaning |\n|---|---|---|---|"
            )
            parts += [row(f"{name}.{key}", inner) for key, inner in section.model_fields.items()]
            parts.append("")
            if name == "method":
                parts += methods()
        else:
            parts += [
                f"## {name}",
                "",
                "| key | value | default | meaning |",
                "|---|---|---|---|",
                row(name, field),
                "",
            ]
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(reference(), encoding="utf-8")
