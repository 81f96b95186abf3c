"""Built-in data: docstrings of Python's standard library. The query is the first sentence, the document is the rest."""

from __future__ import annotations

import re

from coterie.data.stdlib import stdlib_definitions
from coterie.tasks.retrieval.data.relevance import Documents, Query

MASK = "[name]"  # replaces the symbol's name, which would give the document away
SHORTEST_QUERY, SHORTEST_DOCUMENT = 4, 8  # words
SENTENCE = re.compile(r"(.+?[.!?])(?=\s|$)", re.DOTALL)


def split_docstring(name: str, docstring: str) -> tuple[str, str] | None:
    """Return the first sentence, with the symbol's name masked, and the rest; None if one of them is too short.

    If the first paragraph has no end of a sentence, all of it is the sentence.

    >>> split_docstring("bisect", "Find where bisect would put x. The list must be sorted, and stays as it is now.")
    ('Find where [name] would put x.', 'The list must be sorted, and stays as it is now.')
    """
    first, _, rest = docstring.strip().partition("\n\n")
    found = SENTENCE.match(first)
    sentence = found.group(1) if found else first
    rest = f"{first[len(sentence) :]}\n\n{rest}".strip()
    query = " ".join(re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", MASK, sentence).split())
    document = " ".join(rest.split())
    if len(query.split()) < SHORTEST_QUERY or len(document.split()) < SHORTEST_DOCUMENT:
        return None
    return query, document


def docstring_pairs() -> tuple[Documents, list[Query], int]:
    """Return documents, queries (grouped by module), and the number of docstrings left out because their sentence or rest duplicates another's."""
    documents = Documents()
    queries: list[Query] = []
    seen: set[str] = set()
    duplicates = 0
    for module, name, docstring in stdlib_definitions():
        pair = split_docstring(name, docstring)
        if pair is None:
            continue
        query, document = pair
        if query.lower() in seen or document.lower() in seen:
            duplicates += 1
            continue
        seen |= {query.lower(), document.lower()}
        queries.append(Query(query, ((documents.add(document), 1.0),), group=module))
    return documents, queries, duplicates
