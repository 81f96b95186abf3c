"""Queries and their relevant documents, before they are split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True)
class Query:
    """Attributes:
    text: the query.
    relevant: indices of its relevant documents, and their grades, above 0.
    negatives: indices of documents that are known not to be relevant.
    group: queries of one group are in the same split.
    """

    text: str
    relevant: tuple[tuple[int, float], ...]
    negatives: tuple[int, ...] = ()
    group: str = ""


@dataclass
class Documents:
    """Distinct documents in the order in which they were added.

    A document is identified by its id if it has one, else by its text.
    """

    texts: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add(self, text: str, name: str | None = None) -> int:
        """Add a document and return its index."""
        key = f"id {name}" if name is not None else f"text {text}"
        if key not in self._numbers:
            self._numbers[key] = len(self.texts)
            self.texts.append(text)
            self.ids.append(name if name is not None else str(len(self.ids)))
        return self._numbers[key]

    def find(self, name: str) -> int | None:
        """Return the index of the document with an id; None: there is none."""
        return self._numbers.get(f"id {name}")

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Queries:
    """The queries of a split."""

    items: tuple[Query, ...]

    @classmethod
    def of(cls, items: Iterable[Query]) -> Self:
        """Build from queries, in their order."""
        return cls(tuple(items))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def texts(self) -> list[str]:
        return [each.text for each in self.items]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Return all pairs of a query's index and the index of one of its documents."""
        return [(number, document) for number, each in enumerate(self.items) for document, _ in each.relevant]

    def take(self, numbers: Sequence[int]) -> Queries:
        """Select some queries."""
        return Queries(tuple(self.items[number] for number in numbers))


def texts_digest(texts: Iterable[str]) -> str:
    """Return a digest that changes with any text of a list, or their order."""
    whole = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode(errors="surrogateescape")
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()
