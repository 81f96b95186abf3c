"""Queries given on the command line, as texts or files. This module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.tasks.inputs import texts_or_files
from coterie.tasks.retrieval.settings import data_of


def find_samples(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[str]:
    """Return queries given as texts, as ``-`` for a list on standard input, or as files, see :func:`coterie.tasks.inputs.texts_or_files`.

    From a table, the column of queries is read or, if there is none, ``text``, as in BEIR's ``queries.jsonl``.

    Raises:
        CoterieError: a file does not exist or cannot be read.
    """
    settings = data_of(load_recipe(folder.recipe, trust_code=True))  # no method is imported for this
    wanted = (settings.query, "text")

    def column(there: Sequence[str]) -> list[str]:
        return [next((each for each in wanted if each in there), wanted[0])]

    return ["\t".join(texts) for texts in texts_or_files(inputs, lines, column, "data.query")]
