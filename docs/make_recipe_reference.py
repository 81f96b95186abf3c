"""Writes docs/recipe.md from the pydantic models of coterie.recipe, so that the reference cannot fall behind them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from pydantic.fields import FieldInfo

from coterie.cli.listings import type_name, value_of
from coterie.methods import METHODS
from coterie.methods.options import option_fields
from coterie.recipe.recipe import BY_TASK, Recipe, recipe_of, section_of, settings_in
from coterie.tasks import known_tasks

INTRODUCTION = """# Recipe reference

Written by `docs/make_recipe_reference.py` from the models in `coterie.recipe`.

A recipe is a YAML file with the sections below; every setting can also be given on the command line as `section.key=value`. `data: digits`
is short for `data: {name: digits}`, and so for `network` and `method`. Values are checked before anything is loaded; unknown keys are
refused, and the nearest right spelling is named. A setting of a method that has no effect beside another one (`method.r1=1` with `method.adversary=none`) is refused too,
unless it has its default value.

`task` says what kind of problem the data are. Each task has its own `data`, `network`, `method` (another default) and `teacher`; the other sections are the same for all.
"""


HEAD = "| key | value | default | meaning |\n|---|---|---|---|"


def escaped(kind: str) -> str:
    """A bar would end the cell."""
    return kind.replace("|", "\\|")


def default_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def row(name: str, field: FieldInfo) -> str:
    kind = escaped(value_of(field))
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
                f"| `method.{key}` | {escaped(type_name(kind))} | `{default_text(value)}` |"
                for key, (kind, value) in options.items()
            ]
            parts.append("")
    return parts


def reference() -> str:
    parts = [INTRODUCTION]
    for name, field in Recipe.model_fields.items():
        if name in BY_TASK:
            for task in known_tasks():
                inside = recipe_of(task).model_fields[name]
                own = section_of(inside.annotation)
                assert own is not None
                parts += [f"## {name}, task={task}", "", inspect.cleandoc(own.__doc__ or ""), "", HEAD]
                parts += [row(key, inner) for key, inner in settings_in(name, inside).items()]
                parts.append("")
            if name == "method":
                parts += methods()
        elif section := section_of(field.annotation):
            parts.append(f"## {name}\n\n{inspect.cleandoc(section.__doc__ or '')}".rstrip() + f"\n\n{HEAD}")
            parts += [row(key, inner) for key, inner in settings_in(name, field).items()]
            parts.append("")
        else:
            parts += [
                f"## {name}",
                "",
                HEAD,
                row(name, field),
                "",
            ]
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(reference(), encoding="utf-8")
