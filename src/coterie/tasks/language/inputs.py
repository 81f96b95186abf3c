"""Prompts given on the command line, as texts or files. This module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.tasks.inputs import texts_or_files
from coterie.tasks.language.settings import data_of


def find_samples(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[str]:
    """Return prompts given as texts, as ``-`` for a list on standard input, or as files, see :func:`coterie.tasks.inputs.texts_or_files`.

    From a table, the column of prompts is read, or the column of texts if there is none.

    Raises:
        CoterieError: a file does not exist or cannot be read.
    """
    settings = data_of(load_recipe(folder.recipe, trust_code=True))  # no method is imported for this
    wanted = [column for column in (settings.prompt, settings.text) if column is not None] or ["prompt"]

    def column(there: Sequence[str]) -> list[str]:
        return [next((each for each in wanted if each in there), wanted[0])]

    return ["\t".join(texts) for texts in texts_or_files(inputs, lines, column, "data.prompt")]
