"""Reads texts given on a command line, or files of texts. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.tasks.inputs import texts_or_files
from coterie.tasks.texts.settings import data_of


def find_samples(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[Any]:
    """Returns texts given directly, on standard input (``-``) or in files, see :func:`coterie.tasks.inputs.texts_or_files`; pairs are separated by a tab.

    Raises:
        CoterieError: a file is missing or cannot be read.
    """
    columns = _columns(folder)
    found = texts_or_files(inputs, lines, lambda _: columns, "data.columns")
    return found if len(columns) > 1 else ["\t".join(texts) for texts in found]


def text_columns(folder: RunFolder) -> int:
    """Returns whether a run was trained on texts (1) or on pairs of texts (2)."""
    return len(_columns(folder))


def _columns(folder: RunFolder) -> list[str]:
    return data_of(load_recipe(folder.recipe, trust_code=True)).columns  # no method is imported for this
