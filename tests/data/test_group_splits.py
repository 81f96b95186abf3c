"""Splits by groups, of documents and of queries: which stand where is a function of the seed, and stays what it was."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from coterie.tasks.language.data.splits import split_documents
from coterie.tasks.language.settings import LanguageData
from coterie.tasks.retrieval.data.relevance import Query
from coterie.tasks.retrieval.data.sets import split_queries
from coterie.tasks.retrieval.settings import RetrievalData

SETTINGS = [
    {},
    {"validation_seed": 7},
    {"test": 0.35, "validation": 0.2, "train_limit": 20},
    {"test": 0, "validation": 0.3},
    {"validation": 0},
]


def digest(splits):
    text = json.dumps({split: [int(number) for number in numbers] for split, numbers in splits.items()})
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def of_documents(brought, settings):
    def store(count, first):
        groups = np.array([(number * number) % 23 + first for number in range(count)], dtype=np.uint64)
        return Store(groups=groups, digests=np.arange(first, first + count, dtype=np.uint64))

    stores = {split: store(count, 1000 * place) for place, (split, count) in enumerate(brought.items())}
    return {split: each.numbers for split, each in split_documents(stores, LanguageData(**settings)).items()}


class Store(SimpleNamespace):
    def __len__(self):
        return len(self.digests)


def of_queries(brought, settings):
    found = {
        split: [
            Query(f"{split} {number}", ((number, 1.0), (500 + number, 1.0)), group=f"{(number * number) % 23}")
            for number in range(count)
        ]
        for split, count in brought.items()
    }
    splits = split_queries(found, RetrievalData(**settings))
    return {
        split: [number for each in queries.items for number, _ in each.relevant] for split, queries in splits.items()
    }


BROUGHT = [{"train": 90}, {"train": 60, "validation": 9}, {"train": 60, "validation": 9, "test": 5}]
DOCUMENTS = [
    "634de253b1bf",
    "ecbc9b1419d7",
    "8046f767df9d",
    "fd1a97680d39",
    "fe9e0d210529",
    "c0f7dc366f3b",
    "3e649b7c39d5",
    "1ec014a86b72",
    "dc0b855321c4",
    "c03b1673c599",
    "d1bba63af0e0",
    "d1bba63af0e0",
    "d1bba63af0e0",
    "d1bba63af0e0",
]
QUERIES = [
    "ac4d6c00ca29",
    "a896beb8a973",
    "0bb00b4141f4",
    "064cc139347f",
    "d6d27e530585",
    "f2ad9c8a4417",
    "4c97cbcdb77c",
    "cbfecea023c6",
    "a4bb0377bc3f",
    "f509fe235866",
    "8cee911a7242",
    "8cee911a7242",
    "8cee911a7242",
    "8cee911a7242",
]


@pytest.mark.parametrize(("split", "expected"), [(of_documents, DOCUMENTS), (of_queries, QUERIES)])
def test_splits_are_what_they_were(split, expected):
    """Digests of which rows stand in which split, by version 0.2.0. They are part of every run that is compared with an old one."""
    found = [
        digest(split(brought, settings))
        for brought in BROUGHT
        for settings in SETTINGS
        if settings.get("test", 0) == 0 or "test" not in brought
    ]
    assert found == expected
