"""Texts that are named on a command line. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.tasks.texts.settings import data_of


def find_samples(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[Any]:
    """The texts as they stand, ``-`` for a list on standard input; pairs are parted by a tab."""
    texts = [text for each in inputs for text in (lines() if each == "-" else [each])]
    return [tuple(text.split("\t")) for text in texts] if text_columns(folder) > 1 else list(texts)


def text_columns(folder: RunFolder) -> int:
    """Whether a run of texts was trained on texts (1) or pairs (2)."""
    return len(data_of(load_recipe(folder.recipe, trust_code=True)).columns)  # no method is imported for this
