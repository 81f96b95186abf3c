"""Reads YAML and JSON from untrusted sources: size and depth are limited, aliases and repeated keys are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from coterie.errors import CoterieError

LARGEST_YAML = 2**20  # bytes; a recipe with a weight for each of 20,000 classes has a fifth of that
LARGEST_DEPTH = 32


class TooMuch(CoterieError):
    """A document exceeds the limits. Unlike a value that is not YAML, it is never treated as text."""


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses aliases, with which a line of text can expand to gigabytes, and repeated keys."""

    depth = 0

    def compose_node(self, parent: yaml.nodes.Node | None, index: Any) -> yaml.nodes.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise TooMuch("it has an alias (*name); write the value out")
        self.depth += 1
        if self.depth > LARGEST_DEPTH:
            raise TooMuch(f"it is nested more than {LARGEST_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise TooMuch(f"it sets {twice[:60]!r} twice")
        return node


def parse_yaml(text: str) -> Any:
    """Parses a YAML document of plain values.

    Raises:
        TooMuch: the document exceeds the limits, has an alias, or sets a key twice.
        yaml.YAMLError: the text is not YAML.
        ValueError: a number cannot be read.
    """
    if len(text) > LARGEST_YAML:
        raise TooMuch(f"it is larger than {LARGEST_YAML:,} bytes")
    return yaml.load(text, _Loader)


def read_text(path: Path, largest: int) -> str:
    """Reads a regular file of at most ``largest`` bytes as UTF-8 text.

    Raises:
        OSError: the file cannot be read.
        TooMuch: the file is larger, or is not a regular file (a pipe or a device may never end).
        UnicodeDecodeError: the file is not UTF-8.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise TooMuch("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise TooMuch(f"it is larger than {largest:,} bytes")
    return content.decode("utf-8-sig")


def parse_json(text: str) -> Any:
    """Parses a JSON document.

    Raises:
        ValueError: the text is not JSON, a number is not finite, or the nesting is too deep to read.
    """

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not a number of JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
