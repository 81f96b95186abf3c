"""Queries that are named on a command line, or files of them. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.tasks.inputs import texts_or_files
from coterie.tasks.retrieval.settings import data_of


def find_samples(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[str]:
    """Queries as they stand, ``-`` for a list on standard input, or files, see :func:`coterie.tasks.inputs.texts_or_files`.

    Of a table the column of queries is read, or ``text``, as in BEIR's ``queries.jsonl``, where there is none.

    Raises:
        CoterieError: a file that is not there or cannot be read.
    """
    settings = data_of(load_recipe(folder.recipe, trust_code=True))  # no method is imported for this
    wanted = (settings.query, "text")

    def column(there: Sequence[str]) -> list[str]:
        return [next((each for each in wanted if each in there), wanted[0])]

    return ["\t".join(texts) for texts in texts_or_files(inputs, lines, column, "data.query")]
