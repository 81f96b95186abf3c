"""The embedded data: docstrings of Python's standard library. The query is the first sentence, the document is what follows."""

from __future__ import annotations

import re

from coterie.data.stdlib import stdlib_definitions
from coterie.tasks.retrieval.data.relevance import Documents, Query

MASK = "[name]"  # in place of the symbol's name, which would give the document away
SHORTEST_QUERY, SHORTEST_DOCUMENT = 4, 8  # words
SENTENCE = re.compile(r"(.+?[.!?])(?=\s|$)", re.DOTALL)


def split_docstring(name: str, docstring: str) -> tuple[str, str] | None:
    """First sentence, its symbol's name masked, and the rest; None where one of them says too little.

    A first paragraph without the end of a sentence is the sentence.

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
    """Documents, queries (those of a module are one group), and how many docstrings were left out as duplicates of another's sentence or rest."""
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
