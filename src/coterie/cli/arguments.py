"""Parses command arguments: recipes, folders, settings and seeds. Nothing heavy is imported."""

from __future__ import annotations

import re
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from coterie.documents import TooMuch, parse_yaml
from coterie.errors import CoterieError
from coterie.recipe.published import find_recipe
from coterie.recipe.tree import number_with_exponent

if TYPE_CHECKING:
    from coterie.recipe import Recipe


DATA_FILES = (".parquet", ".csv", ".tsv", ".jsonl")  # which are no recipes


TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Allow a recipe file or run to name a custom method; its code is imported and run."
    ),
]


def recipe_and_overrides(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Like :func:`recipes_and_overrides`, for a command that takes one recipe."""
    names = [each for each in arguments if "=" not in each]
    if len(names) > 1:
        raise CoterieError(f"expected one recipe and key=value settings, got {', '.join(map(repr, names))}")
    recipes, overrides = recipes_and_overrides(arguments)
    return (recipes[0] if recipes else None), overrides


def recipes_and_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split ``[RECIPE]... [key=value ...]``: an argument without an equals sign is a recipe, or a folder or file of data, which means ``data=PLACE``."""
    recipes, folders = list[str](), list[str]()
    for each in arguments:
        if "=" in each:
            continue
        path = Path(each).expanduser()
        if path.is_dir() or (path.is_file() and path.suffix in DATA_FILES):
            # Make it a path: a folder may have the name of a data set.
            folders.append(f"data={dumps(str(path) if path.is_absolute() else f'./{path}')}")
        else:
            recipes.append(each if path.is_file() else str(find_recipe(each)))
    return recipes, [*folders, *(each for each in arguments if "=" in each)]


def require_data(recipe: Recipe, resume: bool = False) -> None:
    """Refuse a missing data folder before torch is imported; a resumed run is skipped, because it has its own settings."""
    if not resume:
        recipe.data.require_place()


def read_options(texts: list[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` options, with values read as YAML.

    Raises:
        CoterieError: an option has no equals sign.
    """
    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise CoterieError(f"--set {text!r}: expected KEY=VALUE")
        try:
            found[key] = number_with_exponent(parse_yaml(value))
        except (TooMuch, yaml.YAMLError, ValueError):
            found[key] = value
    return found


def read_seeds(text: str) -> int | list[int]:
    """Parse a number of seeds (``5``), or the seeds themselves (``3,5,7``)."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or parts == ["0"]:
        raise CoterieError(f"--seeds {text}: expected how many (5) or which, separated by commas (3,5,7)")
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


def read_sweep(texts: list[str]) -> dict[str, list[str]]:
    """Parse settings and their values to try from ``KEY=A,B,C``; commas within brackets belong to a value.

    Raises:
        CoterieError: the text has another form, there is only one value, or a value or setting is repeated.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key, _, rest = text.partition("=")
        values = [each.strip() for each in re.split(r",(?![^\[{]*[\]}])", rest)]
        if not key or len(values) < 2 or not all(values):
            raise CoterieError(
                f"--sweep {text!r}: expected a setting and several values, such as method.temperature=1,2,4"
            )
        if key in found or len(set(values)) < len(values):
            raise CoterieError(f"--sweep {text!r}: a {'setting' if key in found else 'value'} is there twice")
        found[key] = values
    return found
