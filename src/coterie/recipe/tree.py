"""A recipe's settings as a tree of plain values: read from YAML, changed by ``key=value`` and keywords, not yet validated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from coterie.documents import LARGEST_YAML, TooMuch, parse_yaml, read_text
from coterie.errors import CoterieError

SECTIONS = ("data", "network", "method")  # a plain value for these sets their name


def read_tree(source: str | Path | Mapping[str, Any] | BaseModel | None) -> dict[str, Any]:
    """Returns the settings of a file, a recipe or a mapping as a new tree.

    Raises:
        CoterieError: the file cannot be read, or holds no settings.
    """
    if source is None:
        return {}
    if isinstance(source, BaseModel):
        return source.model_dump()
    if isinstance(source, Mapping):
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in source.items()}
    path = Path(source)
    try:
        tree = parse_yaml(read_text(path, LARGEST_YAML))
    except OSError as error:
        raise CoterieError(f"cannot read the recipe {str(path)!r}: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise CoterieError(f"{str(path)!r} is not a YAML recipe: {' '.join(str(error).split())[:200]}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise CoterieError(
            f"{str(path)!r} is not a recipe: expected keys such as data, network, method; found {type(tree).__name__}"
        )
    return number_with_exponent(tree)  # type: ignore[return-value]


def changes_of(overrides: Iterable[str], sections: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields sections, then overrides, as keys and values to merge."""
    yield from sections.items()
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise CoterieError(f"{override!r} is not a setting: expected key=value, such as training.epochs=30")
        if key.count(".") > 8:
            raise CoterieError(f"unknown setting {key[:80]!r}: expected section.key")
        try:
            value = parse_yaml(text)
        except TooMuch as error:
            raise CoterieError(f"{override[:80]!r} is not a setting: {error}") from None
        except (yaml.YAMLError, ValueError):
            value = text
        value = number_with_exponent(value)
        parent, _, last = key.rpartition(".")
        yield parent or last, {last: value} if parent else value


def merge(tree: dict[str, Any], key: str, value: object, within: str = "") -> None:
    """Set ``tree[key]`` in place; a mapping is merged into the existing one, a name replaces the section's name.

    ``within`` a section, no key is itself a section: ``teacher.network`` is a name.
    """
    head, _, rest = key.partition(".")
    if rest:
        value = {rest.partition(".")[0]: value} if "." not in rest else _nest(rest, value)
    old, sections = tree.get(head), () if within else SECTIONS
    if isinstance(old, (str, list)) and head in sections:
        old = {"name": old}
    if isinstance(value, (str, list, Path)) and head in sections:
        value = {"name": value}
    if head == "teacher" and not within and isinstance(old, (str, Path)):
        old = {"run": str(old)}
    if rest and old is not None and not isinstance(old, Mapping):
        raise CoterieError(f"{within}{head}={str(old)[:60]!r} is not a section: {within}{key} cannot be set in it")
    if isinstance(value, Mapping) and old is not None and not isinstance(old, Mapping):
        raise CoterieError(
            f"{within}{head}={str(old)[:60]!r} holds no settings: {', '.join(map(str, list(value)[:3]))} cannot be set in it"
        )
    if isinstance(old, Mapping) and isinstance(value, Mapping):
        merged = dict(old)
        for inner, item in value.items():
            merge(merged, inner, item, f"{within}{head}.")
        value = merged
    tree[head] = value


def _nest(key: str, value: object) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nest(rest, value) if rest else value}


def number_with_exponent(value: object) -> object:
    """Converts text such as 5e-8 to a number: YAML 1.1 reads it as text because it has no decimal point."""
    if isinstance(value, str):
        try:
            return float(value) if value[:1] in "+-.0123456789" and "e" in value.lower() else value
        except ValueError:
            return value
    if isinstance(value, dict):
        return {k: number_with_exponent(v) for k, v in value.items()}
    if isinstance(value, list):
        return [number_with_exponent(v) for v in value]
    return value
